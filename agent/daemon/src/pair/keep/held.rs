// SPDX-License-Identifier: Apache-2.0
//! Up to when each volume here holds every write: known while it is connected and up to date, and kept
//! across a loss of power, so that a person can be told what going back to it costs.

use crate::durable::file;
use crate::hq::client::error_chain;
use hypervisor_glue::replication::{DiskState, ReplicaStatus};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Written at most so often while all is well; a loss is written at once.
const EVERY_MS: u64 = 60_000;
const BYTES_MAX: u64 = 64 * 1024;
const WHAT: &str = "times of whole volumes";

/// The times, by DRBD resource.
pub struct Held {
    path: PathBuf,
    times_ms: BTreeMap<String, u64>,
    written: BTreeMap<String, u64>,
}

impl Held {
    /// What an earlier agent knew. Lost or damaged, nothing is known.
    pub fn read(path: PathBuf) -> Self {
        let times: BTreeMap<String, u64> =
            file::read_json(&path, WHAT, BYTES_MAX).ok().flatten().unwrap_or_default();
        Self { path, written: times.clone(), times_ms: times }
    }

    /// Every write acknowledged up to then is in the volume; 0 if that is not known.
    pub fn of(&self, resource: &str) -> u64 {
        self.times_ms.get(resource).copied().unwrap_or(0)
    }

    /// The volumes are like this at `now_ms`.
    pub fn saw(&mut self, statuses: &[ReplicaStatus], now_ms: u64) {
        let (mut lost, mut old) = (false, false);
        for status in statuses {
            let name = &status.resource;
            if status.link.is_up() && status.disk == DiskState::UpToDate {
                self.times_ms.insert(name.clone(), now_ms);
                let written_ms = self.written.get(name).copied().unwrap_or(0);
                // A clock that was set back counts too.
                old |= now_ms.abs_diff(written_ms) >= EVERY_MS;
            } else {
                lost |= self.times_ms.get(name) != self.written.get(name);
            }
        }
        if !lost && !old {
            return;
        }
        self.written.clone_from(&self.times_ms);
        if let Err(err) = file::write_json(&self.path, WHAT, &self.times_ms) {
            tracing::warn!(error = error_chain(&err), "times of whole volumes not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypervisor_glue::replication::{LinkState, Role};

    const NOW: u64 = 1_800_000_000_000;

    fn volume(disk: DiskState, link: LinkState) -> [ReplicaStatus; 1] {
        [ReplicaStatus {
            resource: "till-data".into(),
            number: 0,
            role: Role::Secondary,
            peer_role: Role::Primary,
            disk,
            peer_disk: DiskState::UpToDate,
            link,
            frozen: false,
            out_of_sync_bytes: 0,
            resync_percent: None,
        }]
    }

    #[test]
    fn the_time_of_the_loss_is_known_after_a_restart_and_a_resync_does_not_move_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Held::read(dir.path().join("held.json"));
        let mut held = open();
        assert_eq!(held.of("till-data"), 0, "nothing is known");
        held.saw(&volume(DiskState::UpToDate, LinkState::Connected), NOW);
        held.saw(&volume(DiskState::UpToDate, LinkState::Connected), NOW + 5_000);
        held.saw(&volume(DiskState::UpToDate, LinkState::Connecting), NOW + 8_000);
        assert_eq!(open().of("till-data"), NOW + 5_000, "the last moment of being connected");
        let mut held = open();
        held.saw(&volume(DiskState::Inconsistent, LinkState::SyncTarget), NOW + 90_000);
        held.saw(&volume(DiskState::Outdated, LinkState::Connecting), NOW + 99_000);
        assert_eq!((held.of("till-data"), open().of("till-data")), (NOW + 5_000, NOW + 5_000));
    }

    #[test]
    fn a_power_loss_costs_a_minute_of_it_at_most_and_garbage_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held.json");
        let mut held = Held::read(path.clone());
        for second in 0..150 {
            held.saw(&volume(DiskState::UpToDate, LinkState::Connected), NOW + second * 1000);
        }
        let kept = Held::read(path.clone()).of("till-data");
        assert!((NOW + 90_000..=NOW + 149_000).contains(&kept), "{kept}");
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(Held::read(path).of("till-data"), 0);
    }
}
