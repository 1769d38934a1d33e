// SPDX-License-Identifier: Apache-2.0
//! Small FAT file systems: the claim stick, labelled FORECOURT, with the claim code and the owner
//! bundle; and a disk with somebody's files.

use anyhow::{Context, bail};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Small enough to be quick, large enough for FAT16.
const STICK_BYTES: u64 = 16 << 20;

/// What is on a stick: file names and contents.
pub type Files<'a> = &'a [(&'a str, &'a str)];

/// Makes the stick's image at `path`.
pub fn write(path: &Path, files: Files) -> anyhow::Result<()> {
    File::create(path)?.set_len(STICK_BYTES)?;
    run(Command::new("/usr/sbin/mkfs.vfat").args(["-n", "FORECOURT"]).arg(path))?;
    let dir = crate::rundir::temp_dir("stick")?;
    for (name, text) in files {
        let file = dir.path().join(name);
        std::fs::write(&file, text)?;
        run(Command::new("mcopy").arg("-i").arg(path).arg(&file).arg(format!("::{name}")))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("Starting {program}"))?;
    if !out.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
