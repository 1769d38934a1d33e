// SPDX-License-Identifier: Apache-2.0
//! Reading what HQ gives out for a box: see [`provisioning_protocol::local_witness`].

use anyhow::{Context as _, bail};
use provisioning_protocol::local_witness::WitnessBundle;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const BUNDLE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the file. It holds a key, so nobody else may read it.
///
/// # Errors
/// If it is not there, open to others, or no bundle.
pub fn read(path: &Path) -> anyhow::Result<WitnessBundle> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mode = file.metadata().context("cannot look at the bundle")?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} holds a key and may be read by others: chmod 600 it", path.display());
    }
    let mut text = String::new();
    file.take(BUNDLE_BYTES_MAX).read_to_string(&mut text).context("cannot read the bundle")?;
    serde_json::from_str(&text).with_context(|| format!("{} is no witness bundle", path.display()))
}
