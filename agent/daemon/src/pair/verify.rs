// SPDX-License-Identifier: Apache-2.0
//! Once a month every block of every volume is read on both servers and compared (DRBD's online
//! verify): a disk that quietly returned something else is found while its good copy still exists.

use crate::durable::file;
use crate::hq::client::error_chain;
use crate::identity::clock;
use crate::status::{Concern, Hub};
use hypervisor_glue::replication::{DiskState, LinkState, ReplicaStatus, Replication};
use provisioning_protocol::ids::NodeSlot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const DAY_MS: u64 = 24 * 3600 * 1000;
const EVERY_MS: u64 = 30 * DAY_MS;
/// A volume whose copies differ is compared again after a day: it may have been mended.
const DIFFERENT_MS: u64 = DAY_MS;
const PERIOD: Duration = Duration::from_secs(600);
/// A volume that takes longer is left to itself.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
const BYTES_MAX: u64 = 64 * 1024;
const WHAT: &str = "list of compared volumes";

/// When a volume was last compared, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Compared {
    at_ms: u64,
    different_bytes: u64,
}

impl Compared {
    fn due(self, now_ms: u64) -> bool {
        let every_ms = if self.different_bytes == 0 { EVERY_MS } else { DIFFERENT_MS };
        // A clock that was set back must not put it off for years.
        now_ms.saturating_sub(self.at_ms) >= every_ms || self.at_ms > now_ms + DAY_MS
    }
}

/// Compares the copies from time to time, from slot A: once is enough for both.
pub struct Verifier {
    /// This server's place.
    pub slot: NodeSlot,
    /// The volumes.
    pub replication: Arc<dyn Replication>,
    /// Who is told.
    pub hub: Arc<Hub>,
    /// Where it is kept when each was compared.
    pub file: PathBuf,
    /// Between two looks at a comparison under way.
    pub poll: Duration,
}

impl Verifier {
    /// Runs for ever.
    pub async fn run(self) {
        if self.slot != NodeSlot::A {
            return;
        }
        loop {
            sleep(PERIOD).await;
            self.once(clock::now_ms()).await;
        }
    }

    /// Compares what is due at `now_ms`, one volume after the other.
    pub async fn once(&self, now_ms: u64) {
        let mut known: BTreeMap<String, Compared> =
            file::read_json(&self.file, WHAT, BYTES_MAX).ok().flatten().unwrap_or_default();
        let Ok(volumes) = self.replication.status().await else { return };
        let before = known.clone();
        known.retain(|name, _| volumes.iter().any(|volume| volume.resource == *name));
        for volume in volumes.iter().filter(|volume| healthy(volume)) {
            // A new volume is equal by construction: its month begins now.
            let new = Compared { at_ms: now_ms, different_bytes: 0 };
            let last = *known.entry(volume.resource.clone()).or_insert(new);
            if !last.due(now_ms) {
                continue;
            }
            if let Some(different_bytes) = self.compare(volume).await {
                self.tell(&volume.resource, different_bytes, last.different_bytes);
                let compared = Compared { at_ms: now_ms, different_bytes };
                known.insert(volume.resource.clone(), compared);
            }
        }
        for (name, compared) in &known {
            self.show(name, compared.different_bytes);
        }
        if known != before
            && let Err(error) = file::write_json(&self.file, WHAT, &known)
        {
            tracing::warn!(error = error_chain(&error), "comparison not noted");
        }
    }

    /// Bytes that differ; `None` if it could not be carried to its end.
    async fn compare(&self, volume: &ReplicaStatus) -> Option<u64> {
        let name = &volume.resource;
        tracing::info!(volume = name, "comparing both copies");
        if let Err(err) = self.replication.verify(volume.number).await {
            tracing::warn!(volume = name, error = error_chain(&err), "not compared");
            return None;
        }
        let until = Instant::now() + LIMIT;
        while Instant::now() < until {
            sleep(self.poll).await;
            let statuses = self.replication.status().await.ok()?;
            let status = statuses.into_iter().find(|status| status.number == volume.number)?;
            match &status.link {
                LinkState::Other(word) if word.starts_with("Verify") => {}
                LinkState::Connected => return Some(status.out_of_sync_bytes),
                // The link was lost: the next round begins anew.
                _ => return None,
            }
        }
        None
    }

    fn tell(&self, name: &str, different_bytes: u64, before_bytes: u64) {
        if different_bytes > 0 {
            let text = format!("{name}: {different_bytes} bytes differ between the two servers");
            self.hub.event("copies_differ", text);
        } else if before_bytes > 0 {
            self.hub.event("copies_equal", format!("{name}: both copies are equal again"));
        } else {
            tracing::info!(volume = name, "both copies are equal");
        }
    }

    fn show(&self, name: &str, different_bytes: u64) {
        let words = (different_bytes > 0).then(|| {
            format!(
                "The copies of {name} differ in {different_bytes} bytes: a disk of one server returned \
                 something else than was written. Look at the disks' health before anything is \
                 copied, and call HQ"
            )
        });
        self.hub.problem(Concern::Disks, &format!("compared {name}"), words);
    }
}

fn healthy(volume: &ReplicaStatus) -> bool {
    volume.link == LinkState::Connected
        && volume.disk == DiskState::UpToDate
        && volume.peer_disk == DiskState::UpToDate
        && !volume.frozen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::causes::Causes;
    use crate::status::hub::Fixed;
    use hypervisor_glue::replication::{FakeReplication, ReplicaSpec};
    use provisioning_protocol::desired::Secret;
    use provisioning_protocol::ids::{DiskName, VmName};

    const NOW: u64 = 1_800_000_000_000;

    struct Rig {
        _dir: tempfile::TempDir,
        fake: FakeReplication,
        verifier: Verifier,
    }

    async fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeReplication::default();
        let spec = ReplicaSpec {
            vm: VmName::new("till").unwrap(),
            disk: DiskName::new("data").unwrap(),
            number: 3,
            guest_bytes: 1 << 20,
            backing: "/dev/fake".into(),
            own: "fd00::a".parse().unwrap(),
            peer: "fd00::b".parse().unwrap(),
            secret: Secret("secret".into()),
        };
        fake.create_metadata(&spec).await.unwrap();
        fake.attach(&spec).await.unwrap();
        fake.change(3, |status| {
            status.link = LinkState::Connected;
            (status.disk, status.peer_disk) = (DiskState::UpToDate, DiskState::UpToDate);
        });
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        let verifier = Verifier {
            slot: NodeSlot::A,
            replication: Arc::new(fake.clone()),
            hub: Arc::new(Hub::new(Fixed::default(), causes)),
            file: dir.path().join("verified.json"),
            poll: Duration::from_millis(1),
        };
        Rig { _dir: dir, fake, verifier }
    }

    impl Rig {
        fn verified(&self) -> usize {
            self.fake.calls().iter().filter(|call| *call == "verify 3").count()
        }

        fn told(&self) -> bool {
            let problems = self.verifier.hub.local().server.problems;
            problems.iter().any(|words| words.contains("till-data differ"))
        }
    }

    #[tokio::test]
    async fn copies_are_compared_once_a_month_while_both_are_whole() {
        let rig = rig().await;
        for day in 0..30 {
            rig.verifier.once(NOW + day * DAY_MS).await;
        }
        assert_eq!(rig.verified(), 0, "a new volume has a month");
        rig.fake.change(3, |status| status.peer_disk = DiskState::Inconsistent);
        rig.verifier.once(NOW + 31 * DAY_MS).await;
        assert_eq!(rig.verified(), 0, "not during a resync");
        rig.fake.change(3, |status| status.peer_disk = DiskState::UpToDate);
        for day in 31..60 {
            rig.verifier.once(NOW + day * DAY_MS).await;
        }
        assert_eq!(rig.verified(), 1);
        rig.verifier.once(NOW + 61 * DAY_MS).await;
        assert_eq!(rig.verified(), 2);
        assert!(!rig.told());
    }

    #[tokio::test]
    async fn copies_that_differ_are_told_of_until_they_are_equal_again() {
        let rig = rig().await;
        rig.verifier.once(NOW).await;
        rig.fake.change(3, |status| status.out_of_sync_bytes = 8192);
        rig.verifier.once(NOW + EVERY_MS).await;
        assert!(rig.told());
        rig.verifier.once(NOW + EVERY_MS + 1000).await;
        assert!(rig.told(), "still");
        assert_eq!(rig.verified(), 1);
        rig.fake.change(3, |status| status.out_of_sync_bytes = 0);
        rig.verifier.once(NOW + EVERY_MS + DAY_MS).await;
        assert_eq!(rig.verified(), 2);
        assert!(!rig.told());
    }

    #[tokio::test]
    async fn a_lost_link_ends_a_comparison_and_the_next_look_begins_it_anew() {
        let rig = rig().await;
        rig.verifier.once(NOW).await;
        rig.fake.verify_ends_as(LinkState::Connecting);
        rig.verifier.once(NOW + EVERY_MS).await;
        assert_eq!(rig.verified(), 1);
        rig.fake.verify_ends_as(LinkState::Connected);
        rig.fake.change(3, |status| status.link = LinkState::Connected);
        rig.verifier.once(NOW + EVERY_MS + 1000).await;
        assert_eq!(rig.verified(), 2);
    }

    #[tokio::test]
    async fn a_clock_from_the_future_does_not_put_it_off_and_garbage_begins_anew() {
        let rig = rig().await;
        rig.verifier.once(NOW + 40 * 365 * DAY_MS).await;
        rig.verifier.once(NOW).await;
        assert_eq!(rig.verified(), 1);
        std::fs::write(&rig.verifier.file, "nonsense").unwrap();
        rig.verifier.once(NOW).await;
        assert_eq!(rig.verified(), 1);
    }
}
