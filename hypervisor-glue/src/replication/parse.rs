// SPDX-License-Identifier: Apache-2.0
//! Reading `drbdsetup-84 events2` lines: the one format for both status and events.
//!
//! A line is `VERB OBJECT key:value key:value …`. Keys that are not known are skipped, values
//! that are not known become the most careful state.

use super::{DiskState, LinkState, ReplicaEvent, ReplicaStatus, Role};
use std::collections::BTreeMap;

/// Longest line looked at, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;

/// One line, split.
#[derive(Debug)]
pub(super) struct Line<'a> {
    verb: &'a str,
    object: &'a str,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    /// Splits a line; `None` if it has no verb and object.
    pub fn split(text: &'a str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let (verb, object) = (words.next()?, words.next()?);
        Some(Self { verb, object, values: words.filter_map(|word| word.split_once(':')).collect() })
    }

    /// The line that ends the first dump of everything.
    pub fn ends_dump(&self) -> bool {
        self.verb == "exists" && self.object == "-"
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied()
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    /// The event this line tells, if it matters.
    pub fn event(&self) -> Option<ReplicaEvent> {
        let resource = self.get("name")?.to_owned();
        let state = self.get("connection").filter(|_| self.object == "connection");
        if let Some(link) = state.and_then(|word| connection(word, "")) {
            return Some(ReplicaEvent::Link { resource, link });
        }
        let keys =
            ["role", "disk", "peer-disk", "replication", "suspended", "helper", "status", "done"];
        let told: Vec<String> = keys
            .iter()
            .filter_map(|key| self.get(key).map(|value| format!("{key}:{value}")))
            .collect();
        if told.is_empty() && self.verb == "change" {
            return None;
        }
        let calm = |word: &String| word.starts_with("role:") || word == "suspended:no";
        let known = self.get("role").is_some_and(|role| role != "Unknown");
        if self.verb == "change" && known && told.iter().all(calm) {
            return Some(ReplicaEvent::Role { resource });
        }
        let detail = format!("{} {} {}", self.verb, self.object, told.join(" "));
        Some(ReplicaEvent::Changed { resource, detail: detail.trim_end().to_owned() })
    }
}

/// The status of all volumes from the lines of `events2 --now --statistics`.
pub(super) fn status(text: &str) -> Vec<ReplicaStatus> {
    let lines: Vec<Line<'_>> = text.lines().filter_map(Line::split).collect();
    let of = |object: &str, name: &str| {
        lines.iter().find(|line| line.object == object && line.get("name") == Some(name))
    };
    let mut all: Vec<ReplicaStatus> = lines
        .iter()
        .filter(|line| line.object == "device")
        .filter_map(|device| {
            let name = device.get("name")?;
            one(device, of("resource", name), of("connection", name), of("peer-device", name))
        })
        .collect();
    all.sort_by_key(|status| status.number);
    all
}

/// Every reading of what `drbdsetup` says, for the fuzz targets.
#[doc(hidden)]
#[must_use]
pub fn read_any(text: &str) -> (Vec<ReplicaStatus>, Vec<ReplicaEvent>) {
    let lines = text.lines().filter_map(Line::split);
    (status(text), lines.filter_map(|line| line.event()).collect())
}

fn one(
    device: &Line<'_>,
    resource: Option<&Line<'_>>,
    link: Option<&Line<'_>>,
    peer: Option<&Line<'_>>,
) -> Option<ReplicaStatus> {
    let get = |line: Option<&Line<'_>>, key: &str| {
        line.and_then(|line| line.get(key).map(str::to_owned)).unwrap_or_default()
    };
    let size_kib: u64 = device.number("size").unwrap_or(0);
    let dirty_kib: u64 = peer.and_then(|line| line.number("out-of-sync")).unwrap_or(0);
    let word = get(link, "connection");
    let link_state = connection(&word, &get(peer, "replication"));
    let link_state = link_state.unwrap_or(LinkState::StandAlone);
    let syncing = matches!(link_state, LinkState::SyncTarget | LinkState::SyncSource);
    let suspended = get(resource, "suspended");
    Some(ReplicaStatus {
        resource: device.get("name")?.to_owned(),
        number: device.number("minor")?,
        role: role(&get(resource, "role")),
        peer_role: role(&get(link, "role")),
        disk: disk(device.get("disk").unwrap_or_default()),
        peer_disk: disk(&get(peer, "peer-disk")),
        link: link_state,
        frozen: !suspended.is_empty() && suspended != "no",
        out_of_sync_bytes: dirty_kib.saturating_mul(1024),
        resync_percent: syncing.then(|| percent_done(size_kib, dirty_kib)),
    })
}

fn percent_done(size_kib: u64, dirty_kib: u64) -> u8 {
    let done = size_kib.saturating_sub(dirty_kib).saturating_mul(100);
    u8::try_from(done.checked_div(size_kib).unwrap_or(0).min(100)).unwrap_or(100)
}

fn role(word: &str) -> Role {
    match word {
        "Primary" => Role::Primary,
        "Secondary" => Role::Secondary,
        _ => Role::Unknown,
    }
}

fn disk(word: &str) -> DiskState {
    match word {
        "Diskless" => DiskState::Diskless,
        "Attaching" | "Detaching" | "Negotiating" => DiskState::Transient,
        "Failed" => DiskState::Failed,
        "Inconsistent" => DiskState::Inconsistent,
        "Outdated" => DiskState::Outdated,
        "Consistent" => DiskState::Consistent,
        "UpToDate" => DiskState::UpToDate,
        _ => DiskState::Unknown,
    }
}

fn connection(word: &str, replication: &str) -> Option<LinkState> {
    Some(match word {
        "" => return None,
        "StandAlone" => LinkState::StandAlone,
        "Disconnecting" | "TearDown" => LinkState::Disconnecting,
        "Unconnected" | "Connecting" => LinkState::Connecting,
        "Timeout" | "BrokenPipe" | "NetworkFailure" | "ProtocolError" => LinkState::Lost,
        "Connected" => match replication {
            "" | "Established" => LinkState::Connected,
            "SyncTarget" => LinkState::SyncTarget,
            "SyncSource" => LinkState::SyncSource,
            word if word.starts_with("WF") || word.starts_with("Starting") || word == "Off" => {
                LinkState::Negotiating
            }
            other => LinkState::Other(other.to_owned()),
        },
        other => LinkState::Other(other.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As printed by drbd-utils 9.22 on Linux 6.12 with DRBD 8.4.11.
    const CONNECTED: &str = "\
exists resource name:r1 role:Primary suspended:no write-ordering:flush
exists connection name:r1 peer-node-id:0 conn-name:peer connection:Connected role:Secondary congested:no
exists device name:r1 volume:0 minor:1 disk:UpToDate size:102400 read:0 written:20480 al-writes:13 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no
exists peer-device name:r1 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate resync-suspended:no received:0 sent:20480 out-of-sync:0 pending:0 unacked:0
exists resource name:r2 role:Secondary suspended:no write-ordering:flush
exists connection name:r2 peer-node-id:0 connection:StandAlone role:Unknown congested:no
exists device name:r2 volume:0 minor:2 disk:Outdated size:102400 read:0 written:20480 al-writes:8 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no
exists peer-device name:r2 peer-node-id:0 volume:0 replication:Off peer-disk:DUnknown resync-suspended:no received:20480 sent:0 out-of-sync:20480 pending:0 unacked:0
exists -
";

    #[test]
    fn status_joins_the_four_kinds_of_lines() {
        let all = status(CONNECTED);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].number, 1);
        assert_eq!((all[0].role, all[0].peer_role), (Role::Primary, Role::Secondary));
        assert_eq!((all[0].disk, all[0].peer_disk), (DiskState::UpToDate, DiskState::UpToDate));
        assert_eq!(all[0].link, LinkState::Connected);
        assert!(!all[0].frozen);
        assert_eq!(all[1].link, LinkState::StandAlone);
        assert_eq!(all[1].peer_disk, DiskState::Unknown);
        assert_eq!(all[1].out_of_sync_bytes, 20_480 * 1024);
        assert_eq!(all[1].resync_percent, None);
    }

    #[test]
    fn any_suspension_counts_as_frozen() {
        for word in ["fencing", "user", "no-data,fencing", "something-new"] {
            let text = CONNECTED.replacen("suspended:no", &format!("suspended:{word}"), 1);
            assert!(status(&text)[0].frozen, "{word}");
        }
    }

    #[test]
    fn resync_progress_comes_from_the_bytes_left() {
        let text = CONNECTED.replace("replication:Established", "replication:SyncTarget").replacen(
            "out-of-sync:0",
            "out-of-sync:25600",
            1,
        );
        let first = &status(&text)[0];
        assert_eq!((first.link.clone(), first.resync_percent), (LinkState::SyncTarget, Some(75)));
    }

    #[test]
    fn unknown_words_become_the_most_careful_state() {
        let text = CONNECTED.replace("disk:UpToDate", "disk:Marvellous");
        assert_eq!(status(&text)[0].disk, DiskState::Unknown);
        let text = CONNECTED.replace("connection:Connected", "connection:Marvellous");
        assert!(!status(&text)[0].link.is_up());
        let text = CONNECTED.replace("replication:Established", "replication:Behind");
        assert!(!status(&text)[0].link.is_up());
    }

    #[test]
    fn torn_lines_do_not_make_volumes() {
        for cut in 0..CONNECTED.len() {
            let (head, tail) = CONNECTED.split_at(cut);
            assert!(status(head).len() <= 2);
            assert!(status(tail).len() <= 2);
        }
    }

    #[test]
    fn connection_changes_are_told_apart_from_statistics() {
        let event = |text| Line::split(text).and_then(|line| line.event());
        assert_eq!(
            event("change connection name:r1 peer-node-id:0 conn-name:peer connection:Connecting"),
            Some(ReplicaEvent::Link { resource: "r1".into(), link: LinkState::Connecting })
        );
        assert_eq!(event("change connection name:r1 peer-node-id:0 conn-name:peer"), None);
        let helper = event("call helper name:r1 peer-node-id:0 volume:0 helper:fence-peer");
        assert!(matches!(helper, Some(ReplicaEvent::Changed { .. })), "{helper:?}");
        let role = Some(ReplicaEvent::Role { resource: "r1".into() });
        assert_eq!(event("change resource name:r1 role:Primary suspended:no"), role);
        assert_eq!(event("change connection name:r1 peer-node-id:0 role:Secondary"), role);
        for more in [
            "change resource name:r1 role:Primary suspended:fencing",
            "change resource name:r1 suspended:no",
            "change connection name:r1 peer-node-id:0 role:Unknown",
            "destroy resource name:r1 role:Secondary",
        ] {
            assert!(matches!(event(more), Some(ReplicaEvent::Changed { .. })), "{more}");
        }
        assert_eq!(event("exists -"), None);
        assert!(Line::split("exists -").is_some_and(|line| line.ends_dump()));
    }
}
