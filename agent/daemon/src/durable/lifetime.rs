// SPDX-License-Identifier: Apache-2.0
//! How this server's last boot ended: told to stop, or cut off by a reset or a power loss.
//!
//! A small file names the boot and is rewritten each minute, so that the next boot can say until
//! when the server was seen alive.

use super::file::{self, FileError, Mode};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const BYTES_MAX: u64 = 4096;
const WHAT: &str = "record of the last boot";

/// What is kept of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The kernel's id of the boot.
    boot: String,
    /// Seconds since 1970 at which the agent last lived.
    alive_s: u64,
    /// The agent was told to stop.
    ended: bool,
}

/// How the boot before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastBoot {
    /// This very boot goes on, or nothing is known.
    Same,
    /// The server was shut down or rebooted in order.
    Ended,
    /// It was reset or lost its power, and was last seen alive then (seconds since 1970).
    CutOff {
        /// When.
        alive_s: u64,
    },
}

/// The record of this boot.
#[derive(Debug)]
pub struct Lifetime {
    path: PathBuf,
    boot: String,
}

impl Lifetime {
    /// Tells how the last boot ended and begins the record of this one. A record that cannot be
    /// read tells nothing.
    #[must_use]
    pub fn open(path: PathBuf, boot: &str) -> (Self, LastBoot) {
        let kept: Option<Kept> = file::read_json(&path, WHAT, BYTES_MAX).unwrap_or_default();
        let last = match kept {
            Some(kept) if kept.boot == boot => LastBoot::Same,
            Some(Kept { ended: true, .. }) => LastBoot::Ended,
            Some(kept) => LastBoot::CutOff { alive_s: kept.alive_s },
            None => LastBoot::Same,
        };
        (Self { path, boot: boot.to_owned() }, last)
    }

    /// The server lives.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn alive(&self, now_s: u64) -> Result<(), FileError> {
        self.keep(now_s, false)
    }

    /// The agent was told to stop.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn ended(&self, now_s: u64) -> Result<(), FileError> {
        self.keep(now_s, true)
    }

    fn keep(&self, alive_s: u64, ended: bool) -> Result<(), FileError> {
        let kept = Kept { boot: self.boot.clone(), alive_s, ended };
        let bytes = serde_json::to_vec(&kept).expect("plain data becomes JSON");
        file::replace(&self.path, &bytes, Mode::Public, true)
    }
}

/// The kernel's id of this boot; empty if it tells none.
#[must_use]
pub fn boot_id(root: &Path) -> String {
    let path = root.join("proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_was_not_ended_in_order_is_told_from_one_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot: &str| Lifetime::open(dir.path().join("boot.json"), boot);
        let (first, last) = open("one");
        assert_eq!(last, LastBoot::Same, "a new server has no past");
        first.alive(100).unwrap();
        assert_eq!(open("one").1, LastBoot::Same, "only the agent started anew");
        assert_eq!(open("two").1, LastBoot::CutOff { alive_s: 100 });
        first.ended(160).unwrap();
        assert_eq!(open("two").1, LastBoot::Ended);
        std::fs::write(dir.path().join("boot.json"), b"{\"boot\":").unwrap();
        assert_eq!(open("three").1, LastBoot::Same, "a torn record tells nothing");
    }
}
