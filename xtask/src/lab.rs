// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lab`: real-machine scenarios.

use crate::args::LabOptions;
use crate::report::Report;
use crate::{deps, image, paths, template, ui};
use anyhow::bail;
use tests_lab::artifacts::Artifacts;
use tests_lab::scenario::{self, Results};
use tests_lab::timeline::Timeline;

/// Runs the scenarios and fails when one failed.
pub fn run(options: &LabOptions) -> anyhow::Result<()> {
    if options.list {
        for scenario in scenario::all() {
            ui::line(&format!("{:<27} {}", scenario.name, scenario.about));
        }
        return Ok(());
    }
    let results = run_all(options)?;
    let failed: Vec<&str> =
        results.scenarios.iter().filter(|s| s.error.is_some()).map(|s| s.name.as_str()).collect();
    ui::line(&format!(
        "{} passed, {} failed",
        results.scenarios.len() - failed.len(),
        failed.len()
    ));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs the scenarios and writes the results.
pub fn run_all(options: &LabOptions) -> anyhow::Result<Results> {
    let chosen = scenario::select(&options.scenarios)?;
    let report = Report::open(options.json.as_deref())?;
    let artifacts = artifacts()?;
    let results = scenario::run(&artifacts, &Timeline::printing(), &chosen)?;
    if let Some(report) = report {
        report.write(&results)?;
    }
    Ok(results)
}

/// Installs and builds everything the lab starts.
pub fn artifacts() -> anyhow::Result<Artifacts> {
    deps::ensure(&[deps::BUILD, deps::LAB].concat())?;
    // Builds the release binaries too: the servers' go into the image.
    image::run(false, None)?;
    template::run(None)?;
    let artifacts = Artifacts::in_target(&paths::target(), paths::build_tools());
    artifacts.check()?;
    Ok(artifacts)
}
