// SPDX-License-Identifier: Apache-2.0
//! Small JSON files of the box's folder: its own alone to read, replaced as a whole.

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Longer than two keys, or a certificate with its issuer, by far.
const BYTES_MAX: u64 = 64 * 1024;

/// Reads a file; none if there is none.
///
/// # Errors
/// If others may read it, or it is damaged.
pub fn load<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let mode = file.metadata().context("cannot look at the file")?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} may be read by others: chmod 600 it", path.display());
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .map(Some)
        .with_context(|| format!("{} is damaged", path.display()))
}

/// Writes a file in place of an earlier one; on disk when this returns.
///
/// # Errors
/// Whatever the system says.
pub fn store(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_vec_pretty(value).context("cannot write as JSON")?;
    replace(path, &text).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let (folder, new) = (path.parent().unwrap_or(Path::new(".")), path.with_extension("new"));
    std::fs::create_dir_all(folder)?;
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}
