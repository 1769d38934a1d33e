// SPDX-License-Identifier: Apache-2.0
//! The enrolment record: what HQ said this server is, and by which roots it is bound.

use crate::durable::file::{self, FileError};
use provisioning_protocol::ids::{DeviceId, NodeSlot, SiteName};
use provisioning_protocol::owner::OwnerBundle;
use serde::{Deserialize, Serialize};
use std::path::Path;

const BYTES_MAX: u64 = 512 * 1024;

/// Kept in `identity/enrolment.json` once M3 succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// Format version, 1.
    pub v: u32,
    /// The identity HQ gave.
    pub device_id: DeviceId,
    /// The site.
    pub site: SiteName,
    /// The place in the pair.
    pub slot: NodeSlot,
    /// The owner bundle it was enrolled with: HQ's addresses and the roots.
    pub owner: OwnerBundle,
    /// The certificate and its issuers, leaf first, DER, base64.
    pub chain: Vec<String>,
    /// Latest time a trusted HQ told, seconds since 1970: the clock's floor.
    pub time_floor_s: u64,
}

impl EnrolmentRecord {
    /// Reads the record, if there is one.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn load(dir: &Path) -> Result<Option<Self>, FileError> {
        file::read_json(&dir.join("enrolment.json"), "enrolment record", BYTES_MAX)
    }

    /// Keeps the record.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn store(&self, dir: &Path) -> Result<(), FileError> {
        file::write_json(&dir.join("enrolment.json"), "enrolment record", self)
    }
}
