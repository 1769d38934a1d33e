// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: the main job on this machine.

use crate::args::DemoOptions;
use anyhow::bail;

/// Runs the demo.
pub fn run(_options: &DemoOptions) -> anyhow::Result<()> {
    bail!("the demo is not there yet")
}
