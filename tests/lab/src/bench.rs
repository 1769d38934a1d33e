// SPDX-License-Identifier: Apache-2.0
//! Measurements on real machines.

use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::failover::{self, Failover};
use crate::rundir::RunDir;
use crate::server::{BOOT_LIMIT, Server, Spec};
use crate::site::Site;
use crate::timeline::Timeline;
use anyhow::ensure;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Smallest, middle and largest value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Self { min: sorted[0], median, max: sorted[last] }
    }
}

/// `bench failover`.
#[derive(Debug, Clone, Serialize)]
pub struct FailoverReport {
    /// How the servers were run.
    pub accel: Accel,
    /// Seconds from the kill, by phase.
    pub phases: BTreeMap<&'static str, Spread>,
    /// Power-on of the killed server to a healthy pair.
    pub resync_s: Spread,
    /// Entries acknowledged in all runs.
    pub acked_writes: usize,
    /// Those of them that are gone.
    pub lost_writes: usize,
    /// Each run.
    pub runs: Vec<Failover>,
}

/// Kills the VM's server again and again.
pub fn failover(
    artifacts: &Artifacts,
    timeline: &Timeline,
    runs: u32,
) -> anyhow::Result<FailoverReport> {
    let mut site = Site::prepare(artifacts, "bench-failover", timeline)?;
    site.bring_up()?;
    let (mut times, mut resyncs) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        timeline.note("lab", format!("failover {run} of {runs}"));
        let (one, victim) = failover::kill_host(&mut site)?;
        times.push(one);
        resyncs.push(failover::return_of(&mut site, victim)?);
    }
    type Phase = (&'static str, fn(&Failover) -> f64);
    let phases: [Phase; 5] = [
        ("detect_s", |f| f.detect_s),
        ("grant_s", |f| f.grant_s),
        ("promote_s", |f| f.promote_s),
        ("started_s", |f| f.started_s),
        ("serving_s", |f| f.serving_s),
    ];
    let spread =
        |(name, get): &Phase| (*name, Spread::of(&times.iter().map(get).collect::<Vec<_>>()));
    Ok(FailoverReport {
        accel: site.accel,
        phases: phases.iter().map(spread).collect(),
        resync_s: Spread::of(&resyncs),
        acked_writes: times.iter().map(|f| f.acked_writes).sum(),
        lost_writes: times.iter().map(|f| f.lost_writes).sum(),
        runs: times,
    })
}

/// What booting one image alone showed.
#[derive(Debug, Clone, Serialize)]
pub struct BootReport {
    /// How the server was run.
    pub accel: Accel,
    /// Power-on to the goal unit active.
    pub ready_s: Spread,
    /// Power-on to the first answer of the lab's unit.
    pub answers_s: Spread,
    /// Memory in use after the boot, no VM running, in bytes.
    pub memory_bytes: u64,
}

/// Boots one server from `image` without a claim and waits until `unit` is active.
pub fn boot(
    artifacts: &Artifacts,
    timeline: &Timeline,
    image: &Path,
    unit: &str,
    runs: u32,
) -> anyhow::Result<BootReport> {
    let accel = artifacts.accel()?;
    let (mut ready, mut answers, mut memory) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        let run = Arc::new(RunDir::create(&artifacts.out, "bench-boot")?);
        let (image, emulator) = (image.to_owned(), artifacts.emulator(accel));
        let spec = Spec { name: "a", memory_mib: 2560, accel, emulator, image, used_disk: None };
        let mut server = Server::new(&run, timeline, spec, &[])?;
        let start_s = timeline.now_s();
        server.power_on()?;
        answers.push(server.wait_booted(BOOT_LIMIT)? - start_s);
        ready.push(wait_active(&server, timeline, unit)? - start_s);
        memory = memory_in_use(&server)?;
    }
    Ok(BootReport {
        accel,
        ready_s: Spread::of(&ready),
        answers_s: Spread::of(&answers),
        memory_bytes: memory,
    })
}

/// Waits for a unit and returns when it became active, by the server's own record of it.
fn wait_active(server: &Server, timeline: &Timeline, unit: &str) -> anyhow::Result<f64> {
    crate::wait::wait_for(&format!("{unit} to be active"), Duration::from_secs(240), || {
        Ok((server.exec(&format!("systemctl is-active {unit}"))?.code == 0).then_some(()))
    })?;
    let command =
        format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}; cat /proc/uptime");
    let text = server.exec(&command)?.ok()?;
    let now_s = timeline.now_s();
    let mut words = text.split_whitespace();
    let active_us = words.next().and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0);
    let uptime_s = words.next().and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0);
    ensure!(active_us > 0.0 && uptime_s > 0.0, "{unit}: no times in {text:?}");
    let at_s = now_s - (uptime_s - active_us / 1e6);
    timeline.note_at(at_s, server.name(), format!("{unit} active"));
    Ok(at_s)
}

fn memory_in_use(server: &Server) -> anyhow::Result<u64> {
    let text = server.exec("cat /proc/meminfo")?.ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let used = field("MemTotal:").zip(field("MemAvailable:")).map(|(all, free)| all - free);
    used.map(|kib| kib * 1024).ok_or_else(|| anyhow::anyhow!("no memory figures in {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }
}
