// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: measurements.

use crate::args::{BenchName, BenchOptions};
use crate::{lab, ui};
use anyhow::Context;
use serde_json::{Value, json};
use std::path::Path;
use tests_lab::artifacts::Artifacts;
use tests_lab::bench::{self, BootReport, Spread};
use tests_lab::timeline::Timeline;

/// What "agent ready" is: the unit that is active once the agent has told systemd so.
const AGENT_UNIT: &str = "forecourt-agent.service";

/// Most bytes of UKI and root together.
const IMAGE_BYTES_MAX: u64 = 150_000_000;
/// Most seconds from the kill to the grant.
const GRANT_S_MAX: f64 = 4.0;
/// Most seconds from the kill to QEMU started on the other server: T_fence and 5 s.
const STARTED_S_MAX: f64 = 30.0;

/// What was measured, and what of it misses its goal.
struct Report {
    figures: Value,
    misses: Vec<String>,
}

impl Report {
    fn new(figures: &impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self { figures: serde_json::to_value(figures)?, misses: Vec::new() })
    }

    fn goal(mut self, holds: bool, miss: impl FnOnce() -> String) -> Self {
        if !holds {
            self.misses.push(miss());
        }
        self
    }
}

/// Runs one measurement; fails when a figure misses its goal, after all were written.
pub fn run(options: &BenchOptions) -> anyhow::Result<()> {
    let artifacts = lab::artifacts()?;
    let timeline = Timeline::printing();
    let report = match options.name {
        BenchName::Failover => failover(&artifacts, &timeline, options.runs)?,
        BenchName::Boot => boot(&artifacts, &timeline, options.runs)?,
        BenchName::Image => image(&artifacts, &timeline, options.runs)?,
    };
    if let Some(file) = &options.json {
        lab::write_json(file, &report.figures)?;
    }
    anyhow::ensure!(report.misses.is_empty(), "{}", report.misses.join("; "));
    Ok(())
}

fn failover(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Report> {
    let report = bench::failover(artifacts, timeline, runs)?;
    ui::line(&format!("\n{:<12} {:>8} {:>8} {:>8}", "phase", "min", "median", "max"));
    for (name, spread) in &report.phases {
        ui::line(&row(name, *spread));
    }
    ui::line(&row("resync_s", report.resync_s));
    ui::line(&format!("{} writes acknowledged, {} lost", report.acked_writes, report.lost_writes));
    let mut result = Report::new(&report)?
        .goal(report.lost_writes == 0, || format!("{} writes are lost", report.lost_writes));
    for (phase, most) in [("grant_s", GRANT_S_MAX), ("started_s", STARTED_S_MAX)] {
        let slowest = report.phases[phase].max;
        result = result.goal(slowest <= most, || {
            format!("the slowest {phase} is {slowest:.2} s, the goal {most} s")
        });
    }
    Ok(result)
}

fn boot(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Report> {
    let report = bench::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    show_boot("forecourt", &report);
    Report::new(&report)
}

fn image(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Report> {
    let ours = bench::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    let uki_bytes = bytes(&artifacts.uki)?;
    let description = artifacts.image.with_extension("json");
    let text = std::fs::read_to_string(&description)
        .with_context(|| format!("Reading {}", description.display()))?;
    let root_bytes = serde_json::from_str::<Value>(&text)?["root_bytes"]
        .as_u64()
        .with_context(|| format!("{} has no root_bytes", description.display()))?;
    let out = artifacts.image.parent().context("The image lies in no folder")?;
    let stock = crate::image::build_stock(out)?;
    let theirs = bench::boot(artifacts, timeline, &stock, "multi-user.target", runs)?;
    show_boot("forecourt", &ours);
    show_boot("stock Debian", &theirs);
    ui::line(&format!("UKI {uki_bytes} bytes, root {root_bytes} bytes"));
    let figures = json!({
        "uki_bytes": uki_bytes,
        "root_bytes": root_bytes,
        "forecourt": ours,
        "stock": theirs,
    });
    let total = uki_bytes + root_bytes;
    Ok(Report::new(&figures)?.goal(total <= IMAGE_BYTES_MAX, || {
        format!("UKI and root have {total} bytes, the goal {IMAGE_BYTES_MAX}")
    }))
}

fn bytes(file: &Path) -> anyhow::Result<u64> {
    let found = std::fs::metadata(file);
    Ok(found.with_context(|| format!("{} is missing", file.display()))?.len())
}

fn show_boot(name: &str, report: &BootReport) {
    ui::line(&format!("\n{name} ({})", report.accel.name()));
    ui::line(&row("ready_s", report.ready_s));
    ui::line(&format!("{:<12} {:>8} MiB", "memory", report.memory_bytes >> 20));
}

fn row(name: &str, spread: Spread) -> String {
    format!("{name:<12} {:>8.2} {:>8.2} {:>8.2}", spread.min, spread.median, spread.max)
}
