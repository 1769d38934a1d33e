// SPDX-License-Identifier: Apache-2.0
//! Tells yesterday's log from a copy of it put back today.
//!
//! A record restored from a backup may lack the last grant, and would give it a second time. No
//! content can tell: a backup brings it along. What a backup does not bring back is the file's
//! inode, the moment the file system made it, and the machine. The log is a new file at each start
//! and each line names the file it stands in; another one means another incarnation, and agents
//! believe nothing of that before they have registered their pair anew (rule R10).
//!
//! The device's number is no part of it: it may be another after each start of the machine.
//!
//! What this cannot see is a whole disk or virtual machine rolled back to a snapshot, or the living
//! file overwritten in place with its own earlier content. Hence the advice: never back it up.

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Where machines keep their identity.
const MACHINE_ID: &str = "/etc/machine-id";

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    inode: u64,
    /// Nanoseconds since 1970, or none where the file system does not keep it.
    made_ns: Option<i128>,
    machine: String,
}

impl Place {
    /// Of an existing file.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn of(file: &Path) -> io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = statx(CWD, file, AtFlags::empty(), wanted)?;
        let birth = &found.stx_btime;
        let known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        let made = i128::from(birth.tv_sec) * 1_000_000_000 + i128::from(birth.tv_nsec);
        let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
        Ok(Self {
            inode: found.stx_ino,
            made_ns: known.then_some(made),
            machine: machine.trim().chars().take(64).collect(),
        })
    }
}
