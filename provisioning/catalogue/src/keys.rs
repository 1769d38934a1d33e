// SPDX-License-Identifier: Apache-2.0
//! Key files: the offline ones that sign templates, and HQ's online ones.
//!
//! Ed25519, PKCS#8 in DER, mode 0600. A key is never overwritten.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tough::key_source::{KeySource, LocalKeySource};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};

/// Longest key file read; an Ed25519 key has 83 bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// Keys kept offline in a folder: `root.pk8` and `targets.pk8`.
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
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A key file cannot be read or written.
    #[error("key file {path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Not an Ed25519 PKCS#8 key.
    #[error("key file {path} holds no Ed25519 key")]
    Parse {
        /// The file.
        path: PathBuf,
    },
    /// Readable by others.
    #[error("key file {path} can be read by others (mode {mode:o}): chmod 600 it")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No public key in hex.
    #[error("public key of {role} is no Ed25519 key in hex")]
    Public {
        /// The role it was meant for.
        role: &'static str,
    },
}

impl OfflineKeys {
    /// Makes both keys in a folder (made when missing, mode 0700).
    ///
    /// # Errors
    /// [`KeyError::Exists`] if one is there.
    pub fn create(folder: &Path) -> Result<Self, KeyError> {
        create(folder, &["root.pk8", "targets.pk8"])?;
        Self::open(folder)
    }

    /// Opens a folder made before. Either file may be elsewhere (offline); it is missed only when
    /// it has to sign.
    ///
    /// # Errors
    /// [`KeyError`] if a file that is there cannot be used.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let keys = Self { folder: folder.to_path_buf() };
        for path in [keys.root_file(), keys.targets_file()] {
            if path.exists() {
                load(&path)?;
            }
        }
        Ok(keys)
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn root_file(&self) -> PathBuf {
        self.folder.join("root.pk8")
    }

    pub(crate) fn targets_file(&self) -> PathBuf {
        self.folder.join("targets.pk8")
    }
}

impl OnlineKeys {
    /// Makes both keys in a folder.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if one is there.
    pub fn create(folder: &Path) -> Result<Self, KeyError> {
        create(folder, &["snapshot.pk8", "timestamp.pk8"])?;
        Self::open(folder)
    }

    /// Opens a folder made before.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let keys = Self { folder: folder.to_path_buf() };
        keys.public()?;
        Ok(keys)
    }

    /// The public halves.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn public(&self) -> Result<OnlinePublicKeys, KeyError> {
        let hex = |path: &Path| Ok(hex(load(path)?.public_key().as_ref()));
        Ok(OnlinePublicKeys {
            snapshot: hex(&self.snapshot_file())?,
            timestamp: hex(&self.timestamp_file())?,
        })
    }

    pub(crate) fn snapshot_file(&self) -> PathBuf {
        self.folder.join("snapshot.pk8")
    }

    pub(crate) fn timestamp_file(&self) -> PathBuf {
        self.folder.join("timestamp.pk8")
    }
}

/// A key file in the form the TUF library signs with.
pub(crate) fn signer(path: &Path) -> Result<Box<dyn KeySource>, KeyError> {
    load(path)?;
    Ok(Box::new(LocalKeySource { path: path.to_path_buf() }))
}

/// The public half of a key file as TUF metadata names it.
pub(crate) fn public_key(path: &Path) -> Result<Key, KeyError> {
    Ok(tuf_key(load(path)?.public_key().as_ref()))
}

/// A public key in hex as TUF metadata names it.
pub(crate) fn public_key_from_hex(role: &'static str, text: &str) -> Result<Key, KeyError> {
    let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> =
        (0..32).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    match bytes {
        Some(bytes) if digits => Ok(tuf_key(&bytes)),
        _ => Err(KeyError::Public { role }),
    }
}

fn tuf_key(public: &[u8]) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key {
            public: Decoded::<Hex>::from(public.to_vec()),
            _extra: HashMap::new(),
        },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn create(folder: &Path, names: &[&str]) -> Result<(), KeyError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| KeyError::Io { path, source }
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(KeyError::Exists { path: path.clone() });
    }
    for path in &paths {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("the system gives random bytes");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io(path))?;
        file.write_all(key.as_ref()).and_then(|()| file.sync_all()).map_err(io(path))?;
    }
    Ok(())
}

fn load(path: &Path) -> Result<Ed25519KeyPair, KeyError> {
    let io = |source| KeyError::Io { path: path.to_path_buf(), source };
    let meta = std::fs::metadata(path).map_err(io)?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.to_path_buf(), mode });
    }
    let refuse = || KeyError::Parse { path: path.to_path_buf() };
    if meta.len() > KEY_BYTES_MAX {
        return Err(refuse());
    }
    let bytes = std::fs::read(path).map_err(io)?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = OfflineKeys::create(folder.path()).expect("made");
        let mode = std::fs::metadata(keys.root_file()).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(OfflineKeys::create(folder.path()), Err(KeyError::Exists { .. })));
        OfflineKeys::open(folder.path()).expect("opened");
    }

    #[test]
    fn a_key_others_can_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = OnlineKeys::create(folder.path()).expect("made");
        let path = keys.timestamp_file();
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(&path, open).expect("changed");
        assert!(matches!(keys.public(), Err(KeyError::Mode { mode: 0o644, .. })));
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "no key").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(matches!(OnlineKeys::open(folder.path()), Err(KeyError::Parse { .. })));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(OnlineKeys::open(folder.path()), Err(KeyError::Io { .. })));
    }

    #[test]
    fn public_keys_that_are_none_are_refused() {
        let good = "0f".repeat(32);
        public_key_from_hex("snapshot", &good).expect("a key");
        for bad in ["", "0f", &good[1..], &format!("{good}0"), &"+1".repeat(32), &"é".repeat(32)] {
            assert!(public_key_from_hex("snapshot", bad).is_err(), "{bad}");
        }
    }
}
