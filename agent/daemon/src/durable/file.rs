// SPDX-License-Identifier: Apache-2.0
//! Whole files, replaced so that a reader or a power cut sees the old or the new, never a part.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a file could not be read or written.
#[derive(Debug, Error)]
pub enum FileError {
    /// Opening, reading, writing or syncing.
    #[error("Cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The content is not what it should be.
    #[error("{} holds no valid {what}", path.display())]
    Content {
        /// What was expected.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// Larger than any valid content.
    #[error("{} is larger than {max} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
}

impl FileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Owner only: keys.
    Secret,
    /// Everyone.
    Public,
}

/// Replaces `path` atomically; with `sync`, it is on disk when this returns.
///
/// # Errors
/// [`FileError::Io`] with the step that failed; the old content is untouched.
pub fn replace(path: &Path, bytes: &[u8], mode: Mode, sync: bool) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temp = path.with_file_name(name);
    // On a full disk what was begun must not stay: it would take the room the next try needs.
    fill(&temp, bytes, mode, sync).inspect_err(|_| drop(std::fs::remove_file(&temp)))?;
    std::fs::rename(&temp, path).map_err(FileError::io("rename", path))?;
    if sync { sync_parent(path) } else { Ok(()) }
}

/// Writes over a file of just this length; it is on disk when this returns `true`. Nothing is done, and
/// `false` returned, if there is none. Much quicker than [`replace`]: no name and no length changes. A power
/// cut leaves a mixture.
///
/// # Errors
/// [`FileError::Io`] with the step that failed; the content may be a mixture.
pub fn overwrite(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(err) => return Err(FileError::io("open", path)(err)),
    };
    let length = file.metadata().map_err(FileError::io("look at", path))?.len();
    if length != bytes.len() as u64 {
        return Ok(false);
    }
    file.write_all(bytes).map_err(FileError::io("write", path))?;
    file.sync_data().map_err(FileError::io("sync", path))?;
    Ok(true)
}

fn fill(temp: &Path, bytes: &[u8], mode: Mode, sync: bool) -> Result<(), FileError> {
    let bits = if mode == Mode::Secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(bits)
        .open(temp)
        .map_err(FileError::io("create", temp))?;
    file.write_all(bytes).map_err(FileError::io("write", temp))?;
    if sync { file.sync_all().map_err(FileError::io("sync", temp)) } else { Ok(()) }
}

/// Makes the directory entry of `path` durable.
///
/// # Errors
/// [`FileError::Io`].
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|d| d.sync_all()).map_err(FileError::io("sync", dir))
}

/// Reads at most `max` bytes; `None` if the file does not exist.
///
/// # Errors
/// [`FileError`] if it is larger or unreadable.
pub fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(FileError::io("open", path)(err)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(Some(bytes))
}

/// Reads JSON of at most `max` bytes; `None` if the file does not exist.
///
/// # Errors
/// [`FileError`] if it is larger, unreadable or no valid `what`.
pub fn read_json<T: DeserializeOwned>(
    path: &Path,
    what: &'static str,
    max: u64,
) -> Result<Option<T>, FileError> {
    let Some(bytes) = read(path, max)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| FileError::Content {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Writes JSON durably.
///
/// # Errors
/// [`FileError`].
pub fn write_json<T: Serialize>(
    path: &Path,
    what: &'static str,
    value: &T,
) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value).map_err(|source| FileError::Content {
        what,
        path: path.to_owned(),
        source,
    })?;
    replace(path, &bytes, Mode::Public, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_file_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        replace(&path, b"secret", Mode::Secret, true).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path, 6).unwrap().as_deref(), Some(&b"secret"[..]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file stayed");
    }

    #[test]
    fn an_oversized_file_is_refused_not_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        replace(&path, &[b'7'; 100], Mode::Public, false).unwrap();
        assert!(matches!(read(&path, 99), Err(FileError::TooLarge { max: 99, .. })));
    }

    #[test]
    fn a_missing_file_is_none_and_a_broken_one_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("desired.json");
        assert!(read_json::<u32>(&path, "number", 10).unwrap().is_none());
        replace(&path, b"{", Mode::Public, false).unwrap();
        let text = read_json::<u32>(&path, "number", 10).unwrap_err().to_string();
        assert!(text.contains("desired.json") && text.contains("number"), "{text}");
    }
}
