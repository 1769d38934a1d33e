// SPDX-License-Identifier: Apache-2.0
//! Byte counters and the installed floor, kept across reboots.

use crate::durable::file::{self, FileError};
use provisioning_protocol::ids::TemplateName;
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

const BYTES_MAX: u64 = 256 * 1024;

/// Template bytes since enrolment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Over the WAN.
    pub wan_bytes: u64,
    /// From the peer.
    pub peer_bytes: u64,
}

/// Both files.
#[derive(Debug)]
pub struct Ledger {
    counters_path: PathBuf,
    floors_path: PathBuf,
    /// The counters.
    pub counters: Counters,
    floors: BTreeMap<TemplateName, TemplateVersion>,
}

impl Ledger {
    /// Reads both files. Lost counters start at nothing; floors that cannot be read are an
    /// error, because without them an old version could be installed.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(counters_path: PathBuf, floors_path: PathBuf) -> Result<Self, FileError> {
        let counters = file::read_json(&counters_path, "counters", BYTES_MAX);
        let counters = counters.ok().flatten().unwrap_or_default();
        let floors = file::read_json(&floors_path, "installed versions", BYTES_MAX)?;
        Ok(Self { counters_path, floors_path, counters, floors: floors.unwrap_or_default() })
    }

    /// The newest version ever installed.
    #[must_use]
    pub fn floor(&self, name: &TemplateName) -> Option<TemplateVersion> {
        self.floors.get(name).copied()
    }

    /// A template has been installed; durable when this returns.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn installed(&mut self, template: &TemplateRef) -> Result<(), FileError> {
        if self.floor(&template.name).is_some_and(|floor| floor >= template.version) {
            return Ok(());
        }
        self.floors.insert(template.name.clone(), template.version);
        file::write_json(&self.floors_path, "installed versions", &self.floors)
    }

    /// Adds what a fetch cost.
    pub fn count(&mut self, wan_bytes: u64, peer_bytes: u64) {
        self.counters.wan_bytes += wan_bytes;
        self.counters.peer_bytes += peer_bytes;
        if let Err(error) = file::write_json(&self.counters_path, "counters", &self.counters) {
            tracing::warn!(%error, "byte counters not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioning_protocol::ids::TemplateName;

    #[test]
    fn the_floor_survives_a_restart_and_never_sinks() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ledger::open(dir.path().join("c"), dir.path().join("f"));
        let name = TemplateName::new("pos").unwrap();
        let at = |n| TemplateRef { name: name.clone(), version: TemplateVersion(n) };
        let mut ledger = open().unwrap();
        ledger.installed(&at(5)).unwrap();
        ledger.installed(&at(3)).unwrap();
        ledger.count(10, 20);
        let ledger = open().unwrap();
        assert_eq!(ledger.floor(&name), Some(TemplateVersion(5)));
        assert_eq!(ledger.counters, Counters { wan_bytes: 10, peer_bytes: 20 });
        std::fs::write(dir.path().join("f"), b"torn").unwrap();
        assert!(open().is_err(), "a lost floor must not pass for none");
    }
}
