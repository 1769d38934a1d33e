// SPDX-License-Identifier: Apache-2.0
//! Runs the tools of Debian this builder stands on.

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a command and returns its standard output.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("Starting {name} (is its package installed?)"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    bail!("{name} failed ({status}): {}", String::from_utf8_lossy(&stderr).trim())
}

/// Finds a program, also where a user's PATH does not look.
pub fn find(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is missing: install Debian's package {package}"))
}
