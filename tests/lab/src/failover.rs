// SPDX-License-Identifier: Apache-2.0
//! One failover, watched from outside and timed: kill, detect, grant, promote, serve.

use crate::server::{BOOT_LIMIT, Server};
use crate::site::{Site, VM};
use crate::writer::{Verdict, Writer};
use anyhow::{Context, bail, ensure};
use provisioning_protocol::report::Event;
use serde::Serialize;
use std::time::Duration;

/// From the kill to the page's first acknowledgement on the other server, at most.
const SERVING_LIMIT: Duration = Duration::from_secs(180);
/// Acknowledged entries before the kill.
const ACKS_BEFORE: usize = 120;
/// Acknowledged entries after it.
const ACKS_AFTER: usize = 100;

/// Seconds from the kill to each phase.
#[derive(Debug, Clone, Serialize)]
pub struct Failover {
    /// The survivor knows that its peer is gone.
    pub detect_s: f64,
    /// It holds a durable grant to go on alone.
    pub grant_s: f64,
    /// It is primary on the VM's disks.
    pub promote_s: f64,
    /// It has started the VM's QEMU. Not in the demo's report, whose keys are a promise.
    #[serde(skip)]
    pub started_s: f64,
    /// The page acknowledges writes again.
    pub serving_s: f64,
    /// Entries acknowledged over the whole run of the writer.
    pub acked_writes: usize,
    /// Those of them that are gone.
    pub lost_writes: usize,
}

/// Kills the server that runs the VM while a writer writes, and follows what happens.
/// Returns the timings and the letter of the killed server, which stays off.
pub fn kill_host(site: &mut Site) -> anyhow::Result<(Failover, &'static str)> {
    let victim = site.host_of_vm()?;
    let survivor = if victim == "a" { "b" } else { "a" };
    let offset_s = site.server(survivor).clock_offset_s()?;
    let writer = Writer::start(&site.page, &site.timeline);
    wait_acks(&writer, ACKS_BEFORE, Duration::from_secs(120))?;
    site.timeline.note("lab", format!("{} writes acknowledged; killing {victim}", writer.acked()));
    let killed_s = site.server(victim).kill();
    let serving_s = crate::wait::wait_for("the page on the other server", SERVING_LIMIT, || {
        Ok(writer.first_ack_after(killed_s + ACK_IN_FLIGHT_S))
    })
    .with_context(|| describe(site.server(survivor)))?;
    site.timeline.note_at(serving_s, VM, "acknowledges writes again");
    wait_acks(&writer, writer.acked() + ACKS_AFTER, Duration::from_secs(120))?;
    let verdict = writer.finish()?;
    let events = site.server(survivor).status()?.events;
    let clock = |event: &Event| {
        let epoch_s = Duration::from_millis(event.at_ms).as_secs_f64() + offset_s;
        site.timeline.from_epoch_s(epoch_s)
    };
    let phase = |code: &str| -> anyhow::Result<f64> {
        let times = events.iter().filter(|event| event.code == code).map(&clock);
        let first = times.into_iter().find(|at_s| *at_s > killed_s - CLOCK_ERROR_S);
        Ok((first.with_context(|| format!("No event \"{code}\" in {events:?}"))? - killed_s)
            .max(0.0))
    };
    let result = Failover {
        detect_s: phase("peer_lost")?,
        grant_s: phase("grant")?,
        promote_s: phase("promoted")?,
        started_s: phase("vm_started")?,
        serving_s: serving_s - killed_s,
        acked_writes: verdict.acked,
        lost_writes: verdict.lost,
    };
    site.timeline.note("lab", result.summary());
    Ok((result, victim))
}

/// An acknowledgement this soon after the kill was on its way already.
const ACK_IN_FLIGHT_S: f64 = 0.5;
/// How far a server's clock may be off after its offset was measured.
const CLOCK_ERROR_S: f64 = 0.5;

impl Failover {
    /// The phases in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "seconds after the kill: noticed {:.2}, granted {:.2}, promoted {:.2}, VM started {:.2}, \
             serving {:.2}; {} writes acknowledged, {} lost",
            self.detect_s,
            self.grant_s,
            self.promote_s,
            self.started_s,
            self.serving_s,
            self.acked_writes,
            self.lost_writes
        )
    }
}

/// Boots the killed server again and waits for a healthy pair; returns the seconds it took.
pub fn return_of(site: &mut Site, victim: &'static str) -> anyhow::Result<f64> {
    let start_s = site.timeline.now_s();
    site.server(victim).power_on()?;
    site.server(victim).wait_booted(BOOT_LIMIT)?;
    site.wait_paired(Duration::from_secs(240))?;
    Ok(site.timeline.now_s() - start_s)
}

/// What an error says when it is about lost data.
pub const LOST_WORDS: &str = "acknowledged writes are lost";

/// Fails unless nothing that was acknowledged is gone.
pub fn check_verdict(verdict: Verdict) -> anyhow::Result<()> {
    let (first, last) = verdict.lost_between_s.unwrap_or_default();
    ensure!(
        verdict.lost == 0,
        "{} of {} {LOST_WORDS}: acknowledged between {first:.2} and {last:.2} s",
        verdict.lost,
        verdict.acked
    );
    ensure!(
        verdict.torn == 0,
        "{} lines of the page or blocks of its disks are torn",
        verdict.torn
    );
    Ok(())
}

/// Waits until a writer has this many acknowledgements.
pub fn wait_acks(writer: &Writer, count: usize, limit: Duration) -> anyhow::Result<()> {
    crate::wait::wait_for(&format!("{count} acknowledged writes"), limit, || {
        let acked = writer.acked();
        if acked < count {
            bail!("{acked} so far");
        }
        Ok(Some(()))
    })
}

/// What a server says of itself, for an error message.
pub fn describe(server: &Server) -> String {
    match server.status() {
        Ok(status) => format!("server {}: {}", server.name(), crate::server::brief(&status)),
        Err(error) => format!("server {}: no status ({error:#})", server.name()),
    }
}
