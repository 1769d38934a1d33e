// SPDX-License-Identifier: Apache-2.0
//! Key files: the offline ones that sign templates, and HQ's online ones.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Keys kept offline in a folder: `root.pk8` and `targets.pk8` (Ed25519, PKCS#8, mode 0600).
#[derive(Debug, Clone)]
pub struct OfflineKeys {
    folder: PathBuf,
}

/// HQ's online keys in a folder: `snapshot.pk8` and `timestamp.pk8`.
#[derive(Debug, Clone)]
pub struct OnlineKeys {
    folder: PathBuf,
}

/// Public halves of HQ's online keys, to be named in `root.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlinePublicKeys {
    /// Ed25519 public key, hex.
    pub snapshot: String,
    /// Ed25519 public key, hex.
    pub timestamp: String,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file is there already: keys are never overwritten.
    #[error("key file {path} exists already")]
    Exists { path: PathBuf },
    /// A key file cannot be read or written.
    #[error("key file {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not an Ed25519 PKCS#8 key.
    #[error("key file {path} holds no Ed25519 key")]
    Parse { path: PathBuf },
    /// Readable by others.
    #[error("key file {path} can be read by others (mode {mode:o}); chmod 600 it")]
    Mode { path: PathBuf, mode: u32 },
    /// No public key in hex.
    #[error("public key of {role} is no Ed25519 key in hex")]
    Public { role: &'static str },
}

impl OfflineKeys {
    /// Makes both keys in a folder (made when missing, mode 0700).
    ///
    /// # Errors
    /// [`KeyError::Exists`] if one is there.
    pub fn create(folder: &Path) -> Result<Self, KeyError> {
        todo!()
    }
    /// Opens a folder made before.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        todo!()
    }
    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl OnlineKeys {
    /// Makes both keys in a folder.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if one is there.
    pub fn create(folder: &Path) -> Result<Self, KeyError> {
        todo!()
    }
    /// Opens a folder made before.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        todo!()
    }
    /// The public halves.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn public(&self) -> Result<OnlinePublicKeys, KeyError> {
        todo!()
    }
}
