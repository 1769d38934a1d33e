// SPDX-License-Identifier: Apache-2.0
//! Reads the YAML files people write; every error names file, line and field.
//!
//! The one place that knows the YAML parser.

use serde::de::DeserializeOwned;
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest file read, in bytes. A template's file is under 4 KiB; a site list of 3,500 under 1 MiB.
pub const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1, if known.
    pub line: Option<u64>,
    /// Path of the field, such as `disks[0].size`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, as one sentence without a period.
    pub message: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for YamlError {}

/// Reads and parses a file.
///
/// # Errors
/// [`YamlError`] if it cannot be read, is longer than [`FILE_BYTES_MAX`], or is not a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, YamlError> {
    todo!()
}

/// Parses a text; `file` is only named in errors.
///
/// # Errors
/// [`YamlError`] if it is not a `T`.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, YamlError> {
    todo!()
}
