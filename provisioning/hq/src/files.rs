// SPDX-License-Identifier: Apache-2.0
//! HQ's folder: what is kept where, and how it is written.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The folder given by `--dir`.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Names the folder; nothing is touched.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// A file or folder below.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The operator token's file.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.at("operator.token")
    }

    /// The root CA certificate, PEM.
    #[must_use]
    pub fn root_ca(&self) -> PathBuf {
        self.at("pki/root-ca.pem")
    }

    /// The catalogue: TUF repository and chunks.
    #[must_use]
    pub fn catalogue(&self) -> PathBuf {
        self.at("catalogue")
    }
}

/// Makes a folder (and its parents) that only its owner may enter.
///
/// # Errors
/// Whatever the file system says.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that must not exist yet, readable by its owner only, durably.
///
/// # Errors
/// `AlreadyExists` if it is there.
pub fn write_new_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new(path, bytes, 0o600)
}

/// Writes a file that must not exist yet, readable by all, durably.
///
/// # Errors
/// `AlreadyExists` if it is there.
pub fn write_new_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new(path, bytes, 0o644)
}

/// Replaces a file as a whole, durably.
///
/// # Errors
/// Whatever the file system says; then the old one is still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => write_new(&new, bytes, mode)?,
    }
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
