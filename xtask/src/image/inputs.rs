// SPDX-License-Identifier: Apache-2.0
//! Tells whether anything an image is made of changed since it was built.

use anyhow::Context;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A fingerprint of a folder of definitions and of single files: names, modes and contents.
pub fn fingerprint(definition: &Path, files: &[PathBuf]) -> anyhow::Result<String> {
    let mut hasher = DefaultHasher::new();
    add_folder(definition, &mut hasher)?;
    for file in files {
        add_file(file, &mut hasher)?;
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn add_folder(folder: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("Listing {}", folder.display()))?;
    entries.sort();
    for entry in entries {
        entry.hash(hasher);
        if entry.is_symlink() {
            std::fs::read_link(&entry)?.hash(hasher);
        } else if entry.is_dir() {
            add_folder(&entry, hasher)?;
        } else {
            add_file(&entry, hasher)?;
        }
    }
    Ok(())
}

fn add_file(file: &Path, hasher: &mut DefaultHasher) -> anyhow::Result<()> {
    let content = std::fs::read(file).with_context(|| format!("Reading {}", file.display()))?;
    file.hash(hasher);
    std::fs::metadata(file)?.permissions().mode().hash(hasher);
    content.hash(hasher);
    Ok(())
}
