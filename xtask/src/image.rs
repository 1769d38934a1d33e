// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image`: builds the OS image.

use anyhow::bail;

/// Builds `target/image/forecourt.raw`; does nothing when its inputs did not change.
pub fn run(_force: bool) -> anyhow::Result<()> {
    bail!("the OS image has no build definition yet")
}
