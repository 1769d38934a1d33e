// SPDX-License-Identifier: Apache-2.0
//! When a whole copy of a volume is taken, and when one is no longer needed. Pure.

use hypervisor_glue::replication::{DiskState, LinkState, ReplicaStatus, Role};

/// Whether a volume's own data is whole, be it old.
#[must_use]
pub fn is_whole(disk: DiskState) -> bool {
    matches!(disk, DiskState::Outdated | DiskState::Consistent | DiskState::UpToDate)
}

/// Whether a copy of the volume, taken now, would be a whole one that a resync may cost: nobody
/// writes to it here, and nothing comes from the other server yet.
#[must_use]
pub fn takes_copy(status: &ReplicaStatus) -> bool {
    status.role == Role::Secondary && is_whole(status.disk) && !status.link.is_up()
}

/// Whether a resync has left the volume half copied.
#[must_use]
pub fn is_half(status: &ReplicaStatus) -> bool {
    status.role == Role::Secondary && status.disk == DiskState::Inconsistent
}

/// What is to become of the copies kept of a VM's volumes. They are taken, kept and dropped together:
/// volumes of different times are no use to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They stay.
    Stay,
    /// The other server was lost in the middle of a resync: they may be needed.
    Needed,
    /// Dropped: both servers hold everything.
    Equal,
    /// Dropped: the VM's volumes are written here, so these are the newest.
    WrittenHere,
    /// Dropped: the pool runs full, and the other server, which has everything, is there.
    Full,
}

/// Judges by the states of all volumes of the VM (`None`: not attached).
#[must_use]
pub fn verdict(volumes: &[Option<&ReplicaStatus>], pool_full: bool) -> Verdict {
    let all =
        |test: fn(&ReplicaStatus) -> bool| volumes.iter().all(|status| status.is_some_and(test));
    let any =
        |test: fn(&ReplicaStatus) -> bool| volumes.iter().flatten().any(|status| test(status));
    let equal = |status: &ReplicaStatus| {
        status.link == LinkState::Connected
            && status.disk == DiskState::UpToDate
            && status.peer_disk == DiskState::UpToDate
    };
    if volumes.is_empty() {
        Verdict::Stay
    } else if all(equal) {
        Verdict::Equal
    } else if all(|status| status.role == Role::Primary && status.disk == DiskState::UpToDate) {
        Verdict::WrittenHere
    } else if pool_full && any(|status| is_half(status) && status.link.is_up()) {
        Verdict::Full
    } else if any(|status| is_half(status) && !status.link.is_up()) {
        Verdict::Needed
    } else {
        Verdict::Stay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(disk: DiskState, link: LinkState) -> ReplicaStatus {
        ReplicaStatus {
            resource: "till-data".into(),
            number: 0,
            role: Role::Secondary,
            peer_role: Role::Unknown,
            disk,
            peer_disk: DiskState::Unknown,
            link,
            frozen: false,
            out_of_sync_bytes: 0,
            resync_percent: None,
        }
    }

    #[test]
    fn a_half_copied_volume_is_never_copied_over_a_whole_copy() {
        use DiskState::{
            Consistent, Diskless, Failed, Inconsistent, Outdated, Transient, UpToDate,
        };
        for disk in [Inconsistent, Diskless, Failed, Transient, DiskState::Unknown] {
            assert!(!takes_copy(&volume(disk, LinkState::StandAlone)), "{disk:?}");
        }
        for disk in [Outdated, Consistent, UpToDate] {
            for link in [LinkState::StandAlone, LinkState::Connecting, LinkState::Negotiating] {
                assert!(takes_copy(&volume(disk, link)), "{disk:?}");
            }
            for link in [LinkState::SyncTarget, LinkState::Connected] {
                assert!(!takes_copy(&volume(disk, link)), "{disk:?}: too late, or not needed");
            }
            let primary = ReplicaStatus { role: Role::Primary, ..volume(disk, LinkState::Lost) };
            assert!(!takes_copy(&primary), "a VM writes to it");
        }
    }

    #[test]
    fn copies_are_dropped_only_when_all_volumes_of_the_vm_are_whole() {
        let equal = ReplicaStatus {
            peer_disk: DiskState::UpToDate,
            ..volume(DiskState::UpToDate, LinkState::Connected)
        };
        let half = volume(DiskState::Inconsistent, LinkState::SyncTarget);
        assert_eq!(verdict(&[Some(&equal), Some(&equal)], false), Verdict::Equal);
        assert_eq!(verdict(&[Some(&equal), Some(&half)], false), Verdict::Stay);
        assert_eq!(verdict(&[Some(&equal), None], false), Verdict::Stay, "not attached");
        assert_eq!(verdict(&[], false), Verdict::Stay);
        let lost = volume(DiskState::Inconsistent, LinkState::Connecting);
        assert_eq!(verdict(&[Some(&equal), Some(&lost)], false), Verdict::Needed);
        let primary = ReplicaStatus { role: Role::Primary, ..equal };
        assert_eq!(verdict(&[Some(&primary)], false), Verdict::Equal);
        let alone = ReplicaStatus { link: LinkState::Connecting, ..primary };
        assert_eq!(verdict(&[Some(&alone)], false), Verdict::WrittenHere);
    }

    #[test]
    fn a_full_pool_costs_the_copies_only_while_the_source_is_there() {
        let half = |link| volume(DiskState::Inconsistent, link);
        assert_eq!(verdict(&[Some(&half(LinkState::SyncTarget))], true), Verdict::Full);
        assert_eq!(verdict(&[Some(&half(LinkState::Connecting))], true), Verdict::Needed);
        let parted = volume(DiskState::UpToDate, LinkState::Connecting);
        assert_eq!(verdict(&[Some(&parted)], true), Verdict::Stay);
    }
}
