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

/// Runs one measurement.
pub fn run(options: &BenchOptions) -> anyhow::Result<()> {
    let artifacts = lab::artifacts()?;
    let timeline = Timeline::printing();
    let report = match options.name {
        BenchName::Failover => failover(&artifacts, &timeline, options.runs)?,
        BenchName::Boot => boot(&artifacts, &timeline, options.runs)?,
        BenchName::Image => image(&artifacts, &timeline, options.runs)?,
    };
    match &options.json {
        Some(file) => lab::write_json(file, &report),
        None => Ok(()),
    }
}

fn failover(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Value> {
    let report = bench::failover(artifacts, timeline, runs)?;
    ui::line(&format!("\n{:<12} {:>8} {:>8} {:>8}", "phase", "min", "median", "max"));
    for (name, spread) in &report.phases {
        ui::line(&row(name, *spread));
    }
    ui::line(&row("resync_s", report.resync_s));
    ui::line(&format!("{} writes acknowledged, {} lost", report.acked_writes, report.lost_writes));
    anyhow::ensure!(report.lost_writes == 0, "{} acknowledged writes are lost", report.lost_writes);
    Ok(serde_json::to_value(report)?)
}

fn boot(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Value> {
    let report = bench::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    show_boot("forecourt", &report);
    Ok(serde_json::to_value(report)?)
}

fn image(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Value> {
    let ours = bench::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    let uki_bytes = bytes(&artifacts.uki)?;
    let description = artifacts.image.with_extension("json");
    let text = std::fs::read_to_string(&description)
        .with_context(|| format!("Reading {}", description.display()))?;
    let root_bytes = serde_json::from_str::<Value>(&text)?["root_bytes"].clone();
    let out = artifacts.image.parent().context("The image lies in no folder")?;
    let stock = crate::image::build_stock(out)?;
    let theirs = bench::boot(artifacts, timeline, &stock, "multi-user.target", runs)?;
    show_boot("forecourt", &ours);
    show_boot("stock Debian", &theirs);
    ui::line(&format!("UKI {uki_bytes} bytes, root {root_bytes} bytes"));
    Ok(json!({
        "uki_bytes": uki_bytes,
        "root_bytes": root_bytes,
        "forecourt": ours,
        "stock": theirs,
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
