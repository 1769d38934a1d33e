// SPDX-License-Identifier: Apache-2.0
//! `forecourt-agent`: `run` (the default), `net-setup`, `version`.

fn main() -> anyhow::Result<()> {
    Ok(())
}
