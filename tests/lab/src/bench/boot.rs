// SPDX-License-Identifier: Apache-2.0
//! Boot time and memory of one server alone.

use super::Spread;
use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::rundir::RunDir;
use crate::server::{BOOT_LIMIT, Server, Spec};
use crate::timeline::Timeline;
use anyhow::ensure;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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
        let (used_disk, watchdog) = (None, true);
        let spec =
            Spec { name: "a", memory_mib: 2560, accel, emulator, image, used_disk, watchdog };
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
