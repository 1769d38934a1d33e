// SPDX-License-Identifier: Apache-2.0
//! One fault, measured: what the survivor noted, and when the customer was served again.

use super::Spread;
use crate::matrix::round::{PAIR_LIMIT, Round, compare_copies};
use crate::site::VM;
use crate::wait::wait_for;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// From a fault to the page's first acknowledgement, at most.
const SERVING_LIMIT: Duration = Duration::from_secs(480);
/// An acknowledgement this soon after a fault was on its way already.
const IN_FLIGHT_S: f64 = 0.5;
/// How far a server's clock may be off after its offset was measured.
const CLOCK_ERROR_S: f64 = 0.5;

/// The phases of a kill, as the survivor notes them: the figure's name, the event's code.
pub const KILL_PHASES: [(&str, &str); 4] = [
    ("detect_s", "peer_lost"),
    ("grant_s", "grant"),
    ("promote_s", "promoted"),
    ("started_s", "vm_started"),
];

/// One run of a mode.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sample {
    /// Seconds since the fault, by phase.
    pub phases: BTreeMap<&'static str, f64>,
    /// Entries acknowledged.
    pub acked_writes: usize,
    /// Those of them that are gone.
    pub lost_writes: usize,
    /// Lines of the page that are no entry anybody wrote.
    pub torn_writes: usize,
}

/// What several runs came to.
#[derive(Debug, Clone, Serialize)]
pub struct Runs {
    /// Seconds, by phase; a phase that some runs lack counts those that have it.
    pub phases: BTreeMap<&'static str, Spread>,
    /// Entries acknowledged in all runs.
    pub acked_writes: usize,
    /// Those of them that are gone.
    pub lost_writes: usize,
    /// Lines of the page that nobody wrote.
    pub torn_writes: usize,
    /// Why the runs ended before their time.
    pub error: Option<String>,
    /// Each run.
    pub runs: Vec<Sample>,
}

impl Runs {
    pub fn of(runs: Vec<Sample>, error: Option<String>) -> Self {
        let mut values = BTreeMap::<&'static str, Vec<f64>>::new();
        for (phase, seconds) in runs.iter().flat_map(|run| &run.phases) {
            values.entry(phase).or_default().push(*seconds);
        }
        Self {
            phases: values.into_iter().map(|(phase, all)| (phase, Spread::of(&all))).collect(),
            acked_writes: runs.iter().map(|run| run.acked_writes).sum(),
            lost_writes: runs.iter().map(|run| run.lost_writes).sum(),
            torn_writes: runs.iter().map(|run| run.torn_writes).sum(),
            error,
            runs,
        }
    }
}

impl Sample {
    /// Ends a round: a healthy pair again, the time it took since `from_s`, and what became of
    /// the writes.
    pub fn close(round: Round, mut phases: Phases, from_s: f64) -> anyhow::Result<Self> {
        round.site.wait_paired(PAIR_LIMIT)?;
        phases.insert("resync_s", round.site.timeline.now_s() - from_s);
        round.serves()?;
        let (verdict, site) = round.finish()?;
        if let Some((first, last)) = verdict.lost_between_s {
            let text =
                format!("the lost writes were acknowledged between {first:.2} and {last:.2} s");
            site.timeline.note("lab", text);
        }
        compare_copies(site)?;
        let (acked_writes, lost_writes) = (verdict.acked, verdict.lost);
        Ok(Self { phases, acked_writes, lost_writes, torn_writes: verdict.torn })
    }
}

/// Seconds by phase.
pub type Phases = BTreeMap<&'static str, f64>;

/// Seconds to add to a server's clock to get the timeline's, taken before the fault.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    server: &'static str,
    offset_s: f64,
}

impl Clock {
    pub fn of(round: &mut Round, server: &'static str) -> anyhow::Result<Self> {
        Ok(Self { server, offset_s: round.site.server(server).clock_offset_s()? })
    }

    /// Waits until the server has noted each of these since `since_s`, and tells how long after.
    pub fn phases(
        self,
        round: &mut Round,
        wanted: &[(&'static str, &str)],
        since_s: f64,
    ) -> anyhow::Result<Phases> {
        let events = round.site.server(self.server).status()?.events;
        let mut phases = Phases::new();
        for (name, code) in wanted {
            let times = events.iter().filter(|event| event.code == *code).map(|event| {
                let epoch_s = Duration::from_millis(event.at_ms).as_secs_f64() + self.offset_s;
                round.site.timeline.from_epoch_s(epoch_s)
            });
            let first = times.filter(|at_s| *at_s > since_s - CLOCK_ERROR_S).reduce(f64::min);
            let first = first.with_context(|| format!("No event \"{code}\" in {events:?}"))?;
            phases.insert(name, (first - since_s).max(0.0));
        }
        Ok(phases)
    }
}

/// Kills the VM's server and waits until the other one serves. The killed one stays off.
pub fn kill_host(round: &mut Round) -> anyhow::Result<Phases> {
    let clock = Clock::of(round, round.other)?;
    let killed_s = round.site.server(round.host).kill();
    let serving_s = wait_serving(round, killed_s)?;
    let mut phases = clock.phases(round, &KILL_PHASES, killed_s)?;
    phases.insert("serving_s", serving_s - killed_s);
    Ok(phases)
}

/// Waits for the first acknowledgement of a write after a fault that stopped them.
pub fn wait_serving(round: &Round, fault_s: f64) -> anyhow::Result<f64> {
    let at_s = wait_for("the page to acknowledge again", SERVING_LIMIT, || {
        Ok(round.first_ack_after(fault_s + IN_FLIGHT_S))
    })?;
    round.site.timeline.note_at(at_s, VM, "acknowledges writes again");
    round.serves()?;
    Ok(at_s)
}

/// Switches a server on again; returns when, for the time until the pair is healthy.
pub fn power_on(round: &mut Round, name: &str) -> anyhow::Result<f64> {
    let at_s = round.site.timeline.now_s();
    round.power_on(name)?;
    Ok(at_s)
}
