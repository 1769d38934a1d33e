// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: measurements.

use crate::args::BenchOptions;
use anyhow::bail;

/// Runs one measurement.
pub fn run(_options: &BenchOptions) -> anyhow::Result<()> {
    bail!("no measurement is there yet")
}
