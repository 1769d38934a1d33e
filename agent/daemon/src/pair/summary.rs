// SPDX-License-Identifier: Apache-2.0
//! All replicated volumes in one line for the core.

use agent_core::{Disk, LinkSummary};
use hypervisor_glue::replication::{DiskState, LinkState, ReplicaStatus, Role};

/// Summary of the volumes with these numbers.
#[must_use]
pub fn summary(counted: &[u32], statuses: &[ReplicaStatus], split_brain: bool) -> LinkSummary {
    let mut line = LinkSummary {
        volumes: u32::try_from(counted.len()).unwrap_or(u32::MAX),
        connected: !counted.is_empty(),
        split_brain,
        ..LinkSummary::default()
    };
    let mut worst: Option<(Disk, Disk)> = None;
    for number in counted {
        let Some(status) = statuses.iter().find(|status| status.number == *number) else {
            // Not attached: no disk of ours, and nothing reaches the peer.
            line.connected = false;
            let (_, peers) = worst.unwrap_or((Disk::UpToDate, Disk::UpToDate));
            worst = Some((Disk::Diskless, peers.min(Disk::Unknown)));
            continue;
        };
        line.connected &= status.link.is_up();
        line.stand_alone |= status.link == LinkState::StandAlone;
        line.frozen |= status.frozen && status.role == Role::Primary;
        let (mine, peers) = (disk(status.disk), disk(status.peer_disk));
        let (worst_mine, worst_peers) = worst.unwrap_or((mine, peers));
        worst = Some((worst_mine.min(mine), worst_peers.min(peers)));
        line.resync_percent = match (line.resync_percent, status.resync_percent) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    (line.mine, line.peers) = worst.unwrap_or_default();
    line
}

fn disk(state: DiskState) -> Disk {
    match state {
        DiskState::Unknown => Disk::Unknown,
        DiskState::Diskless | DiskState::Transient | DiskState::Failed => Disk::Diskless,
        DiskState::Inconsistent => Disk::Inconsistent,
        DiskState::Outdated => Disk::Outdated,
        DiskState::Consistent => Disk::Consistent,
        DiskState::UpToDate => Disk::UpToDate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well(number: u32) -> ReplicaStatus {
        ReplicaStatus {
            resource: format!("vm-d{number}"),
            number,
            role: Role::Primary,
            peer_role: Role::Secondary,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::UpToDate,
            link: LinkState::Connected,
            frozen: false,
            out_of_sync_bytes: 0,
            resync_percent: None,
        }
    }

    #[test]
    fn one_bad_volume_makes_the_line_bad() {
        let mut statuses = [well(0), well(1)];
        let line = summary(&[0, 1], &statuses, false);
        assert!(line.connected && line.mine == Disk::UpToDate && line.peers == Disk::UpToDate);
        statuses[1].link = LinkState::Connecting;
        statuses[1].peer_disk = DiskState::Unknown;
        statuses[1].frozen = true;
        let line = summary(&[0, 1], &statuses, false);
        assert!(!line.connected && line.frozen && line.peers == Disk::Unknown);
    }

    #[test]
    fn a_volume_that_is_not_attached_counts_as_lost() {
        let line = summary(&[0, 7], &[well(0)], false);
        assert!(!line.connected && line.mine == Disk::Diskless);
    }

    #[test]
    fn a_volume_still_being_made_is_not_counted() {
        let mut making = well(1);
        making.disk = DiskState::Inconsistent;
        let line = summary(&[0], &[well(0), making], false);
        assert!(line.connected && line.volumes == 1 && line.mine == Disk::UpToDate);
        assert!(!summary(&[], &[], false).connected);
    }
}
