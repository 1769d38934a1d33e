// SPDX-License-Identifier: Apache-2.0
//! Where the console reads from, within bounds: a state file of any size, kind or content costs
//! one small read and gives facts to show, never an error to die of.

use crate::facts::{Facts, Sight};
use crate::machine::{self, Machine};
use provisioning_protocol::status::{LocalStatus, STATUS_PATH};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longest status file that is looked at. A full one (32 VMs, 20 events) has about 20 KiB.
pub const STATUS_BYTES_MAX: usize = 256 * 1024;

/// Why a file gave nothing.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error("there is none")]
    Absent,
    /// It is longer than it may be.
    #[error("it is longer than {} KiB", .0 / 1024)]
    TooLong(usize),
    /// It is a folder, a pipe or a device.
    #[error("it is not an ordinary file")]
    NotAFile,
    /// The disk or the kernel refused.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
}

/// Where facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This server.
    Server,
    /// A folder with `status.json`, `os-release` and `machine.json`, for trying things out.
    Folder(PathBuf),
}

impl Source {
    /// Reads everything there is to know now.
    #[must_use]
    pub fn read(&self) -> Facts {
        match self {
            Self::Server => Facts::new(
                sight(Path::new(STATUS_PATH)),
                &image_version(Path::new("/etc/os-release")),
                &machine::read(),
            ),
            Self::Folder(dir) => Facts::new(
                sight(&dir.join("status.json")),
                &image_version(&dir.join("os-release")),
                &recorded_machine(&dir.join("machine.json")),
            ),
        }
    }
}

/// Reads a file of at most `max` bytes without ever waiting for it.
///
/// # Errors
/// [`ReadError`] if there is none, or it is too long, or no ordinary file, or unreadable.
pub fn read_small(path: &Path, max: usize) -> Result<Vec<u8>, ReadError> {
    // A pipe in place of the file would block an ordinary open for ever.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Absent,
        _ => ReadError::Io(error),
    })?;
    if !file.metadata().map_err(ReadError::Io)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > max { Err(ReadError::TooLong(max)) } else { Ok(bytes) }
}

fn sight(path: &Path) -> Sight {
    match read_small(path, STATUS_BYTES_MAX) {
        Err(ReadError::Absent) => Sight::Never,
        Err(error) => Sight::Unreadable(error.to_string()),
        Ok(bytes) => match serde_json::from_slice::<LocalStatus>(&bytes) {
            Ok(status) => Sight::Said(Box::new(status)),
            Err(error) => Sight::Unreadable(error.to_string()),
        },
    }
}

/// `IMAGE_VERSION` of an `os-release` file, else its `PRETTY_NAME`, else nothing.
fn image_version(path: &Path) -> String {
    let bytes = read_small(path, 16 * 1024).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let value = |key: &str| {
        let found = text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix('='));
        found.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    value("IMAGE_VERSION").or_else(|| value("PRETTY_NAME")).unwrap_or_default()
}

fn recorded_machine(path: &Path) -> Machine {
    let bytes = read_small(path, STATUS_BYTES_MAX).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::time::{Duration, Instant};

    fn sight_of(prepare: impl FnOnce(&Path)) -> Sight {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        prepare(&path);
        let start = Instant::now();
        let sight = sight(&path);
        assert!(start.elapsed() < Duration::from_secs(1), "reading must never wait");
        sight
    }

    fn reason(sight: &Sight) -> &str {
        match sight {
            Sight::Unreadable(reason) => reason,
            other => panic!("expected an unreadable file, got {other:?}"),
        }
    }

    #[test]
    fn a_status_of_a_gigabyte_is_reported_not_read() {
        let sight = sight_of(|path| File::create(path).unwrap().set_len(1 << 30).unwrap());
        assert_eq!(reason(&sight), "it is longer than 256 KiB");
    }

    #[test]
    fn garbage_is_reported_with_its_place() {
        for bytes in [&b"\x00\xff\xfe"[..], b"{\"serial\":", b"[1,2]", b"", b"null"] {
            let sight = sight_of(|path| fs::write(path, bytes).unwrap());
            assert!(reason(&sight).contains("line"), "{bytes:?}: {sight:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(!reason(&sight_of(|path| fs::write(path, deep).unwrap())).is_empty());
    }

    #[test]
    fn a_pipe_or_a_folder_in_its_place_does_not_hang_the_console() {
        let pipe = sight_of(|path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        });
        assert_eq!(reason(&pipe), "it is not an ordinary file");
        let folder = sight_of(|path| fs::create_dir(path).unwrap());
        assert!(reason(&folder).contains("not an ordinary file"), "{folder:?}");
    }

    #[test]
    fn no_file_means_the_agent_has_not_spoken() {
        assert!(matches!(sight_of(|_| ()), Sight::Never));
    }

    #[test]
    fn the_image_version_is_found_among_other_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os-release");
        fs::write(&path, "ID=debian\nPRETTY_NAME=\"Debian 13\"\nIMAGE_VERSION='0.1.7'\n").unwrap();
        assert_eq!(image_version(&path), "0.1.7");
        fs::write(&path, "PRETTY_NAME=\"Debian 13\"\n").unwrap();
        assert_eq!(image_version(&path), "Debian 13");
        assert_eq!(image_version(&dir.path().join("none")), "");
    }
}
