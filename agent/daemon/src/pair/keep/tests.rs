// SPDX-License-Identifier: Apache-2.0
//! The keeper on fake volumes and a fake kernel.

use super::*;
use crate::durable::causes::Causes;
use crate::status::hub::Fixed;
use crate::vms::registry::tests::entry;
use agent_core::Status as CoreStatus;
use hypervisor_glue::replication::{DiskState, FakeReplication, LinkState, Role};
use hypervisor_glue::volumes::{FakeVolumes, Keep, KeepCause};
use provisioning_protocol::ids::{DiskName, Epoch};
use provisioning_protocol::peer::{Path, PeerState};
use tempfile::TempDir;

const NUMBER: u32 = 3;

struct Rig {
    _dir: TempDir,
    volumes: FakeVolumes,
    kernel: FakeReplication,
    hub: Arc<Hub>,
    fill: watch::Sender<Fill>,
    keeper: Keeper,
    spec: ReplicaSpec,
}

/// A VM with one volume, attached, not connected, its data in this state.
async fn rig(disk: DiskState) -> Rig {
    let dir = tempfile::tempdir().expect("works");
    rig_with(disk, FakeVolumes::new(dir.path()), dir).await
}

async fn rig_with(disk: DiskState, volumes: FakeVolumes, dir: TempDir) -> Rig {
    patient(disk, volumes, dir, Duration::ZERO).await
}

async fn patient(disk: DiskState, volumes: FakeVolumes, dir: TempDir, patience: Duration) -> Rig {
    let kernel = FakeReplication::default();
    let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
    let hub = Arc::new(Hub::new(Fixed::default(), causes));
    let registry = Arc::new(Registry::open(dir.path().join("registry")).expect("works"));
    let vm = entry("till", NUMBER);
    let spec = vm.replicas[0].clone();
    registry.put(vm, true).expect("works");
    registry.mark_ready(&spec.vm).expect("works");
    kernel.create_metadata(&spec).await.expect("works");
    kernel.attach(&spec).await.expect("works");
    kernel.change(NUMBER, |status| status.disk = disk);
    let (fill, seen) = watch::channel(Fill::Fine);
    let keeper = Keeper::start(KeeperParts {
        volumes: Arc::new(volumes.clone()),
        replication: Arc::new(kernel.clone()),
        registry,
        hub: hub.clone(),
        fill: seen,
        file: dir.path().join("held.json"),
        patience,
    });
    Rig { _dir: dir, volumes, kernel, hub, fill, keeper, spec }
}

impl Rig {
    async fn kept(&self) -> Vec<Keep> {
        let kept = self.volumes.kept().await.expect("works");
        kept.into_iter().filter(|kept| kept.whole).map(|kept| kept.keep).collect()
    }

    fn is(&self, disk: DiskState, link: LinkState) {
        self.kernel.change(NUMBER, |status| (status.disk, status.link) = (disk, link));
    }

    /// The monitor looks, and the keeper has worked it off.
    async fn look(&self) {
        self.keeper.saw(&self.kernel.status().await.expect("works"));
        // Jobs come first; the look has been taken up when the second is done.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn told(&self, code: &str) -> usize {
        self.hub.local().events.iter().filter(|event| event.code == code).count()
    }

    fn shown(&self, words: &str) -> bool {
        self.hub.local().server.problems.iter().any(|line| line.contains(words))
    }

    fn pair_is(&self, state: PeerState) {
        let status = CoreStatus {
            state,
            epoch: Epoch(7),
            in_sync: [].into(),
            paths: [].into(),
            replication: Path::Cable,
            cause: String::new(),
            problems: Vec::new(),
            may_give_up: false,
        };
        self.hub.update(|all| all.pair = Some(status));
    }

    /// The whole way into the middle of a resync, and the loss of the other server there.
    async fn broken_resync(&self) {
        self.keeper.before_connect(&self.spec).await;
        self.is(DiskState::Inconsistent, LinkState::SyncTarget);
        self.look().await;
        self.is(DiskState::Inconsistent, LinkState::Connecting);
        self.look().await;
    }
}

#[tokio::test]
async fn a_copy_is_taken_before_the_volume_is_connected_and_dropped_when_both_are_whole() {
    let rig = rig(DiskState::Outdated).await;
    rig.pair_is(PeerState::Wait);
    rig.keeper.before_connect(&rig.spec).await;
    let kept = rig.kept().await;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].epoch, kept[0].cause), (7, KeepCause::Connect));
    rig.keeper.before_connect(&rig.spec).await;
    rig.keeper.before_resync("minor-3").await;
    assert_eq!(rig.kept().await, kept, "one of the same content is enough");
    rig.is(DiskState::Inconsistent, LinkState::SyncTarget);
    rig.look().await;
    assert_eq!(rig.kept().await, kept, "dropped in the middle of the resync");
    assert_eq!(rig.told("copy_dropped"), 0);
    rig.kernel.change(NUMBER, |status| {
        status.link = LinkState::Connected;
        (status.disk, status.peer_disk) = (DiskState::UpToDate, DiskState::UpToDate);
    });
    rig.look().await;
    assert!(rig.kept().await.is_empty());
    assert_eq!(rig.told("copy_dropped"), 1, "and it is said");
}

#[tokio::test]
async fn a_broken_resync_leaves_the_older_copy_across_restarts_and_says_so() {
    let rig = rig(DiskState::Consistent).await;
    rig.broken_resync().await;
    let kept = rig.kept().await;
    assert_eq!((kept.len(), rig.told("resync_broken")), (1, 1));
    assert!(rig.shown("till is half copied"), "{:?}", rig.hub.local().server.problems);
    let older = rig.hub.local().older_data.expect("offered");
    assert_eq!((older.vms, older.holds_ms), (1, kept[0].holds_ms));
    rig.keeper.before_connect(&rig.spec).await;
    rig.keeper.before_resync("minor-3").await;
    rig.look().await;
    assert_eq!(rig.kept().await, kept, "half a copy in place of a whole one");
    assert_eq!(rig.told("resync_broken"), 1, "said again");
    let volumes = rig.volumes.clone();
    let rig = rig_with(DiskState::Inconsistent, volumes, tempfile::tempdir().expect("works")).await;
    rig.is(DiskState::Inconsistent, LinkState::Connecting);
    rig.look().await;
    assert_eq!(rig.kept().await, kept, "after a restart");
    assert!(rig.hub.local().older_data.is_some() && rig.shown("till is half copied"));
    rig.is(DiskState::Inconsistent, LinkState::SyncTarget);
    rig.look().await;
    assert!(
        rig.hub.local().older_data.is_none() && !rig.shown("half copied"),
        "it is copied again"
    );
    assert_eq!(rig.kept().await, kept);
}

#[tokio::test]
async fn a_link_that_comes_back_soon_is_no_loss() {
    let dir = tempfile::tempdir().expect("works");
    let volumes = FakeVolumes::new(dir.path());
    let rig = patient(DiskState::Outdated, volumes, dir, Duration::from_secs(3600)).await;
    rig.is(DiskState::Outdated, LinkState::Connecting);
    rig.look().await;
    assert!(rig.kept().await.is_empty(), "a snapshot for each flap");
    rig.broken_resync().await;
    assert_eq!(rig.told("resync_broken"), 0);
    assert!(rig.hub.local().older_data.is_none() && !rig.shown("half copied"));
}

#[tokio::test]
async fn parted_for_a_while_a_volume_gets_its_copy_unless_its_server_goes_on_alone() {
    let rig = rig(DiskState::UpToDate).await;
    rig.pair_is(PeerState::Solo);
    rig.is(DiskState::UpToDate, LinkState::Connecting);
    rig.look().await;
    assert!(rig.kept().await.is_empty(), "the others will be overwritten");
    rig.pair_is(PeerState::Wait);
    rig.look().await;
    assert_eq!(rig.kept().await[0].cause, KeepCause::Parted);
    rig.look().await;
    assert_eq!(rig.kept().await.len(), 1);
}

#[tokio::test]
async fn a_copy_whose_resync_began_too_early_counts_for_nothing() {
    let rig = rig(DiskState::Outdated).await;
    rig.is(DiskState::Outdated, LinkState::Negotiating);
    // Between the snapshot and the look after it.
    let kernel = rig.kernel.clone();
    rig.volumes.after_keep(move || {
        kernel.change(NUMBER, |status| {
            (status.disk, status.link) = (DiskState::Inconsistent, LinkState::SyncTarget);
        });
    });
    rig.keeper.before_resync("minor-3").await;
    assert!(rig.volumes.kept().await.expect("works").is_empty());
    assert_eq!(rig.told("copy_not_kept"), 1);
}

#[tokio::test]
async fn the_kernel_s_call_gets_its_copy_before_it_is_answered() {
    let rig = rig(DiskState::Outdated).await;
    rig.is(DiskState::Outdated, LinkState::Negotiating);
    rig.keeper.before_resync("minor-4").await;
    rig.keeper.before_resync("till-system").await;
    assert!(rig.kept().await.is_empty(), "another volume's");
    rig.keeper.before_resync("minor-3").await;
    assert_eq!(rig.kept().await[0].cause, KeepCause::Resync);
}

#[tokio::test]
async fn what_an_agent_did_not_finish_is_put_away_by_the_next() {
    let dir = tempfile::tempdir().expect("works");
    let volumes = FakeVolumes::new(dir.path());
    let keep = Keep {
        vm: VmName::new("till").expect("works"),
        disk: DiskName::new("system").expect("works"),
        taken_ms: 1,
        holds_ms: 1,
        epoch: 1,
        cause: KeepCause::Parted,
    };
    volumes.keep(&keep, false).await.expect("works");
    let rig = rig_with(DiskState::Inconsistent, volumes, dir).await;
    rig.is(DiskState::Inconsistent, LinkState::Connecting);
    rig.look().await;
    assert!(rig.volumes.kept().await.expect("works").is_empty());
    assert!(rig.hub.local().older_data.is_none(), "it may be half");
    assert!(!rig.keeper.restore().await && rig.told("restore_failed") == 1);
}

#[tokio::test]
async fn a_full_pool_takes_no_copy_and_gives_up_those_whose_source_is_there() {
    let rig = rig(DiskState::Outdated).await;
    rig.volumes.set_data_percent(91.0);
    rig.keeper.before_connect(&rig.spec).await;
    rig.keeper.before_connect(&rig.spec).await;
    assert!(rig.kept().await.is_empty());
    assert_eq!(rig.told("copy_not_kept"), 1, "said once in an outage");
    let rig = self::rig(DiskState::Outdated).await;
    rig.broken_resync().await;
    rig.fill.send_replace(Fill::Full);
    rig.volumes.set_data_percent(95.0);
    rig.look().await;
    assert_eq!(rig.kept().await.len(), 1, "it may be all that is left");
    rig.is(DiskState::Inconsistent, LinkState::SyncTarget);
    rig.look().await;
    assert!(rig.kept().await.is_empty());
    assert_eq!(rig.told("copy_dropped"), 1);
}

#[tokio::test]
async fn nothing_is_copied_while_a_vm_writes_here_and_old_copies_go() {
    let rig = rig(DiskState::UpToDate).await;
    rig.keeper.before_connect(&rig.spec).await;
    assert_eq!(rig.kept().await.len(), 1);
    rig.kernel.change(NUMBER, |status| {
        (status.role, status.link) = (Role::Primary, LinkState::Connecting);
    });
    rig.look().await;
    assert!(rig.kept().await.is_empty(), "its own volumes are the newest");
    rig.keeper.before_resync("minor-3").await;
    assert!(rig.kept().await.is_empty());
}

#[tokio::test]
async fn what_is_half_copied_is_put_back_with_fresh_metadata_and_adopted_at_its_promotion_alone() {
    let rig = rig(DiskState::Outdated).await;
    rig.broken_resync().await;
    assert!(rig.keeper.restore().await);
    assert_eq!(rig.volumes.put_back(), rig.kept().await);
    let calls = rig.kernel.calls();
    let end = ["down till-system", "start_over 3", "attach 3", "connect 3"];
    assert!(calls.ends_with(&end.map(str::to_owned)), "{calls:?}");
    assert_eq!(rig.told("put_back"), 1, "with the time up to which nothing is lost");
    rig.keeper.before_promote(&VmName::new("other").expect("works")).await;
    assert_eq!(rig.kernel.calls(), calls);
    rig.keeper.before_promote(&rig.spec.vm).await;
    let calls = rig.kernel.calls();
    let end = ["down till-system", "adopt 3", "attach 3", "connect 3"];
    assert!(calls.ends_with(&end.map(str::to_owned)), "{calls:?}");
    rig.keeper.before_promote(&rig.spec.vm).await;
    assert_eq!(rig.kernel.calls(), calls, "once");
}

#[tokio::test]
async fn a_source_that_is_back_is_not_overruled_at_the_promotion() {
    let rig = rig(DiskState::Outdated).await;
    rig.broken_resync().await;
    assert!(rig.keeper.restore().await);
    rig.is(DiskState::Inconsistent, LinkState::SyncTarget);
    rig.keeper.before_promote(&rig.spec.vm).await;
    assert!(!rig.kernel.calls().iter().any(|call| call == "adopt 3"));
}

#[tokio::test]
async fn what_is_given_up_is_kept_first_and_then_started_over() {
    let rig = rig(DiskState::UpToDate).await;
    rig.is(DiskState::UpToDate, LinkState::StandAlone);
    assert!(rig.keeper.give_up().await, "{:?}", rig.hub.local().events);
    assert_eq!(rig.kept().await.len(), 1);
    let calls = rig.kernel.calls();
    let at = |call: &str| calls.iter().rposition(|made| made == call).expect("called");
    assert!(at("start_over 3") < at("connect 3"), "{calls:?}");
}

#[tokio::test]
async fn nothing_is_given_up_that_is_connected_or_cannot_be_kept() {
    let connected = rig(DiskState::UpToDate).await;
    connected.is(DiskState::UpToDate, LinkState::Connected);
    assert!(!connected.keeper.give_up().await);
    let full = rig(DiskState::UpToDate).await;
    full.is(DiskState::UpToDate, LinkState::StandAlone);
    full.volumes.set_data_percent(91.0);
    assert!(!full.keeper.give_up().await);
    for rig in [connected, full] {
        assert_eq!(rig.told("give_up_failed"), 1);
        assert!(!rig.kernel.calls().iter().any(|call| call.starts_with("start_over")));
    }
}
