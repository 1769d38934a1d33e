// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: measurements.

mod peers;

use crate::args::{BenchName, BenchOptions};
use crate::report::Report as Json;
use crate::{lab, ui};
use anyhow::Context;
use serde_json::{Value, json};
use std::path::Path;
use tests_lab::artifacts::Artifacts;
use tests_lab::bench::boot::BootReport;
use tests_lab::bench::failover::{Mode, ModeReport};
use tests_lab::bench::peers::Contender;
use tests_lab::bench::{self, Spread};
use tests_lab::timeline::Timeline;

/// What "agent ready" is: the unit that is active once the agent has told systemd so.
const AGENT_UNIT: &str = "forecourt-agent.service";

/// Runs of each mode of `failover`.
const FAILOVER_RUNS: u32 = 10;
/// Most bytes of UKI and root together.
const IMAGE_BYTES_MAX: u64 = 150_000_000;
/// Most seconds from the kill to the grant.
const GRANT_S_MAX: f64 = 4.0;
/// Most seconds from the kill to QEMU started on the other server: T_fence and 5 s.
const STARTED_S_MAX: f64 = 30.0;
/// Most seconds from the BMC's word that a server is off to QEMU started on the other.
const AFTER_OFF_S_MAX: f64 = 8.0;
/// A VM whose server loses sight of the other one, and goes on.
const PARTED_PAUSE_S_MAX: f64 = 3.5;
/// A guest that moves to the other server.
const DRAIN_PAUSE_S_MAX: f64 = 1.5;
/// From power-on of one server of two, nobody helping: three minutes beyond those it waits for the other
/// one (rule R9).
const COLD_ONE_S_MAX: f64 = 360.0;

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
    let (mut modes, mut contenders) = (Vec::new(), Vec::new());
    match options.name {
        BenchName::Peers => contenders = Contender::select(&options.modes)?,
        _ => modes = Mode::select(&options.modes)?,
    }
    let json = Json::open(options.json.as_deref())?;
    let artifacts = lab::artifacts()?;
    let timeline = Timeline::printing();
    let runs = |usual| options.runs.unwrap_or(usual);
    let report = match options.name {
        BenchName::Failover => failover(&artifacts, &timeline, &modes, runs(FAILOVER_RUNS))?,
        BenchName::Boot => boot(&artifacts, &timeline, runs(1))?,
        BenchName::Image => image(&artifacts, &timeline, runs(1))?,
        BenchName::Peers => peers(&artifacts, &timeline, &contenders, runs(1))?,
    };
    if let Some(json) = json {
        json.write(&report.figures)?;
    }
    anyhow::ensure!(report.misses.is_empty(), "{}", report.misses.join("; "));
    Ok(())
}

fn failover(
    artifacts: &Artifacts,
    timeline: &Timeline,
    modes: &[Mode],
    runs: u32,
) -> anyhow::Result<Report> {
    let report = bench::failover::run(artifacts, timeline, modes, runs)?;
    let mut result = Report::new(&report)?;
    for mode in &report.modes {
        let name = mode.mode.name();
        ui::line(&format!("\n{:<18} {:>8} {:>8} {:>8}", name, "min", "p50", "max"));
        for (phase, spread) in &mode.all.phases {
            ui::line(&row(phase, *spread));
        }
        ui::line(&format!(
            "{} runs; {} writes acknowledged, {} lost, {} torn",
            mode.all.runs.len(),
            mode.all.acked_writes,
            mode.all.lost_writes,
            mode.all.torn_writes
        ));
        result = judge(result, mode);
    }
    for mode in modes.iter().filter(|mode| !report.modes.iter().any(|ran| ran.mode == **mode)) {
        result.misses.push(format!("{} was not run", mode.name()));
    }
    Ok(result)
}

/// What the slowest run of a mode may take: phases and seconds.
fn goals(mode: Mode) -> &'static [(&'static str, f64)] {
    match mode {
        Mode::WanUp | Mode::WanDown | Mode::OnSiteWitness => {
            &[("grant_s", GRANT_S_MAX), ("started_s", STARTED_S_MAX)]
        }
        Mode::LinkCut => &[("pause_s", PARTED_PAUSE_S_MAX)],
        Mode::Drain => &[("pause_s", DRAIN_PAUSE_S_MAX)],
        Mode::ColdOne => &[("serving_s", COLD_ONE_S_MAX)],
        Mode::Bmc => &[("off_to_started_s", AFTER_OFF_S_MAX)],
        Mode::ColdBoth => &[],
    }
}

/// Looks for what a mode misses.
fn judge(mut result: Report, mode: &ModeReport) -> Report {
    let name = mode.mode.name();
    if let Some(error) = &mode.all.error {
        result.misses.push(format!("{name}: {error}"));
    }
    let gone = mode.all.lost_writes + mode.all.torn_writes;
    result = result.goal(gone == 0, || format!("{name}: {gone} writes are lost or torn"));
    for (phase, most) in goals(mode.mode) {
        let Some(slowest) = mode.all.phases.get(phase).map(|spread| spread.max) else { continue };
        result = result.goal(slowest <= *most, || {
            format!("{name}: the slowest {phase} is {slowest:.2} s, the goal {most} s")
        });
    }
    result
}

/// Seconds after the kill, side by side. Only lost writes and broken runs fail it: the times are for
/// a person to compare.
fn peers(
    artifacts: &Artifacts,
    timeline: &Timeline,
    contenders: &[Contender],
    runs: u32,
) -> anyhow::Result<Report> {
    let rivals = crate::image::build_peers(out_folder(artifacts)?)?;
    let report = bench::peers::run(artifacts, timeline, &rivals, contenders, runs)?;
    let mut result = Report::new(&report)?;
    for standing in &report.contenders {
        let name = standing.contender.name();
        ui::line(&format!("\n{:<20} {:>6} {:>8} {:>8}", name, "min", "p50", "max"));
        for (phase, spread) in &standing.all.phases {
            ui::line(&row(phase, *spread));
        }
        let (acked, lost, torn) =
            (standing.all.acked_writes, standing.all.lost_writes, standing.all.torn_writes);
        let runs = standing.all.runs.len();
        ui::line(&format!("{runs} runs; {acked} writes acknowledged, {lost} lost, {torn} torn"));
        if let Some(error) = &standing.all.error {
            result.misses.push(format!("{name}: {error}"));
        }
        result = result.goal(lost + torn == 0, || format!("{name}: {lost} lost, {torn} torn"));
    }
    ui::line("");
    for line in peers::table(&report) {
        ui::line(&line);
    }
    Ok(result)
}

fn boot(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Report> {
    let report = bench::boot::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    show_boot("forecourt", &report);
    Report::new(&report)
}

fn image(artifacts: &Artifacts, timeline: &Timeline, runs: u32) -> anyhow::Result<Report> {
    let ours = bench::boot::boot(artifacts, timeline, &artifacts.image, AGENT_UNIT, runs)?;
    let uki_bytes = bytes(&artifacts.uki)?;
    let description = artifacts.image.with_extension("json");
    let text = std::fs::read_to_string(&description)
        .with_context(|| format!("Reading {}", description.display()))?;
    let root_bytes = serde_json::from_str::<Value>(&text)?["root_bytes"]
        .as_u64()
        .with_context(|| format!("{} has no root_bytes", description.display()))?;
    let stock = crate::image::build_stock(out_folder(artifacts)?)?;
    let theirs = bench::boot::boot(artifacts, timeline, &stock, "multi-user.target", runs)?;
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

fn out_folder(artifacts: &Artifacts) -> anyhow::Result<&Path> {
    artifacts.image.parent().context("The image lies in no folder")
}

fn bytes(file: &Path) -> anyhow::Result<u64> {
    let found = std::fs::metadata(file);
    Ok(found.with_context(|| format!("{} is missing", file.display()))?.len())
}

fn show_boot(name: &str, report: &BootReport) {
    ui::line(&format!("\n{name} ({})", report.accel.name()));
    ui::line(&row("ready_s", report.ready_s));
    ui::line(&format!("{:<18} {:>8} MiB", "memory", report.memory_bytes >> 20));
}

fn row(name: &str, spread: Spread) -> String {
    format!("{name:<18} {:>8.2} {:>8.2} {:>8.2}", spread.min, spread.p50, spread.max)
}
