// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lab`: real-machine scenarios.

use crate::args::LabOptions;
use anyhow::bail;

/// What became of one scenario.
#[derive(Debug, serde::Serialize)]
pub struct Outcome {
    pub name: String,
    pub error: Option<String>,
}

/// Runs the scenarios and fails when one failed.
pub fn run(options: &LabOptions) -> anyhow::Result<()> {
    run_all(options).map(drop)
}

/// Runs the scenarios.
pub fn run_all(_options: &LabOptions) -> anyhow::Result<Vec<Outcome>> {
    bail!("no scenario is there yet")
}
