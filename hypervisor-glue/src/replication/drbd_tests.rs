// SPDX-License-Identifier: Apache-2.0
//! What `drbdsetup` and `drbdmeta` are told, with a fake of both.

use super::*;
use crate::command::FakeRunner;
use provisioning_protocol::desired::Secret;
use provisioning_protocol::ids::{DiskName, VmName};
use std::os::unix::fs::FileExt;

struct Rig {
    runner: FakeRunner,
    replication: DrbdReplication,
    spec: ReplicaSpec,
    _dir: tempfile::TempDir,
}

/// A kernel that knows no volume, and a backing volume of zeros.
fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("temp dir");
    let backing = dir.path().join("volume");
    std::fs::File::create(&backing).and_then(|file| file.set_len(16 << 20)).expect("volume");
    let runner = FakeRunner::new();
    runner.on_prefix("meta", Finished::with_stdout(""));
    runner.on_prefix("setup", Finished::with_stdout(""));
    let paths = DrbdPaths {
        drbdsetup: "setup".to_owned(),
        drbdmeta: "meta".to_owned(),
        helper: "/helper".to_owned(),
    };
    let replication = DrbdReplication::with_paths(Arc::new(runner.clone()), paths);
    let spec = ReplicaSpec {
        vm: VmName::new("parts-counter").expect("valid"),
        disk: DiskName::new("data").expect("valid"),
        number: 7,
        backing,
        guest_bytes: 8 << 20,
        own: "fd46:4f52:45ff::a".parse().expect("valid"),
        peer: "fd46:4f52:45ff::b".parse().expect("valid"),
        secret: Secret("very-secret".to_owned()),
    };
    Rig { runner, replication, spec, _dir: dir }
}

impl Rig {
    fn knows(&self, connection: &str, disk: &str, peer_disk: &str) {
        let name = "parts-counter-data";
        let text = format!(
            "exists resource name:{name} role:Secondary suspended:no\n\
             exists connection name:{name} connection:{connection} role:Secondary\n\
             exists device name:{name} volume:0 minor:7 disk:{disk} size:8192\n\
             exists peer-device name:{name} replication:Established peer-disk:{peer_disk}\n\
             exists -\n"
        );
        self.runner.on_prefix("setup events2", Finished::with_stdout(text));
    }

    fn told(&self, prefix: &str) -> usize {
        self.runner.ran().iter().filter(|line| line.starts_with(prefix)).count()
    }
}

#[tokio::test]
async fn metadata_is_written_over_zeros_alone() {
    let rig = rig();
    let outcome = rig.replication.create_metadata(&rig.spec).await.expect("made");
    assert_eq!(outcome, MetadataOutcome::Created);
    let file = std::fs::OpenOptions::new().write(true).open(&rig.spec.backing).expect("volume");
    file.write_at(b"x", 9 << 20).expect("written");
    let outcome = rig.replication.create_metadata(&rig.spec).await.expect("found");
    assert_eq!(outcome, MetadataOutcome::Existed);
    let unclean = Finished::with_code(1, "Found meta data is \"unclean\", please apply-al first");
    rig.runner.on_prefix("meta 7 v08", unclean);
    let outcome = rig.replication.create_metadata(&rig.spec).await.expect("found");
    assert_eq!(outcome, MetadataOutcome::Existed, "a crash does not make it new");
    rig.runner.on_prefix("meta 7 v08", Finished::with_code(1, "No valid meta data found"));
    let err = rig.replication.create_metadata(&rig.spec).await.expect_err("refused");
    assert!(matches!(err, GlueError::Refused { .. }), "{err}");
    assert_eq!(rig.told("meta --force"), 1);
}

#[tokio::test]
async fn the_activity_log_is_applied_before_every_attach() {
    let rig = rig();
    // The size of /dev/drbd7 is asked of this machine, which has none.
    assert!(rig.replication.attach(&rig.spec).await.is_err());
    let ran = rig.runner.ran();
    let at = |part: &str| ran.iter().position(|line| line.contains(part)).expect("told");
    assert!(at("apply-al") < at("new-resource"), "{ran:?}");
    assert!(ran[at("setup attach")].contains("--size=16384s"), "{ran:?}");
    rig.knows("StandAlone", "UpToDate", "DUnknown");
    let _ = rig.replication.attach(&rig.spec).await;
    assert_eq!(rig.told("setup attach"), 1, "attached twice");
}

#[tokio::test]
async fn the_secret_is_given_and_never_shown() {
    let rig = rig();
    rig.knows("StandAlone", "UpToDate", "DUnknown");
    rig.replication.connect(&rig.spec).await.expect("connecting");
    let command = rig.runner.commands().pop().expect("a command");
    assert!(command.args.iter().any(|arg| arg == "--shared-secret=very-secret"));
    assert!(command.args.iter().any(|arg| arg == "ipv6:[fd46:4f52:45ff::b]:7707"));
    assert!(!format!("{command:?}").contains("very-secret"), "{command:?}");
    rig.knows("Connecting", "UpToDate", "DUnknown");
    rig.replication.connect(&rig.spec).await.expect("connecting already");
    assert_eq!(rig.told("setup connect"), 1, "connected twice");
}

#[tokio::test]
async fn a_sync_is_skipped_on_new_connected_volumes_alone() {
    for (link, disk, peer) in [
        ("Connected", "UpToDate", "Inconsistent"),
        ("Connected", "Inconsistent", "UpToDate"),
        ("Connected", "Outdated", "Inconsistent"),
        ("Connecting", "Inconsistent", "Inconsistent"),
    ] {
        let rig = rig();
        rig.knows(link, disk, peer);
        assert!(rig.replication.skip_first_sync(&rig.spec).await.is_err(), "{link} {disk} {peer}");
        assert_eq!(rig.told("setup new-current-uuid"), 0);
    }
    let rig = rig();
    rig.knows("Connected", "Inconsistent", "Inconsistent");
    rig.replication.skip_first_sync(&rig.spec).await.expect("skipped");
}

#[tokio::test]
async fn promotion_is_tried_again_only_while_it_may_yet_work() {
    let rig = rig();
    rig.runner.on_prefix("setup primary", Finished::with_code(11, "(-7) Refusing"));
    let limit = Duration::from_millis(350);
    assert!(rig.replication.primary(7, limit).await.is_err());
    assert!(rig.told("setup primary") >= 2, "{:?}", rig.runner.ran());
    let before = rig.told("setup primary");
    rig.runner.on_prefix("setup primary", Finished::with_code(17, "Need access to UpToDate data"));
    assert!(rig.replication.primary(7, limit).await.is_err());
    assert_eq!(rig.told("setup primary"), before + 1, "stale data was tried again");
}

/// What DRBD is told of a volume: the values of an option of `attach` or `connect`.
async fn options() -> impl Fn(&str, &str) -> Vec<String> {
    let rig = rig();
    let _ = rig.replication.attach(&rig.spec).await;
    rig.knows("StandAlone", "UpToDate", "DUnknown");
    rig.replication.connect(&rig.spec).await.expect("connecting");
    let commands = rig.runner.commands();
    move |verb: &str, option: &str| {
        let command = commands.iter().find(|command| command.args[0] == verb).expect("told");
        let found =
            command.args.iter().filter_map(|arg| arg.strip_prefix(option)?.strip_prefix('='));
        found.map(str::to_owned).collect()
    }
}

/// A CRC is the same for every content of a block that ends with its own (design note 0017).
#[tokio::test]
async fn what_a_resync_takes_for_equal_is_not_left_to_a_crc() {
    let told = options().await;
    for digest in ["--csums-alg", "--verify-alg"] {
        assert_eq!(told("connect", digest), ["sha256"]);
    }
}

#[tokio::test]
async fn a_resync_is_neither_starved_by_busy_guests_nor_starves_them() {
    let told = options().await;
    // MiB/s; the kernel's own floor is a quarter of one.
    let mib =
        |option| told("attach", option)[0].strip_suffix('M').and_then(|n| n.parse::<u32>().ok());
    let [least, most, first] = ["--c-min-rate", "--c-max-rate", "--resync-rate"].map(mib);
    assert!(
        least >= Some(10) && most >= Some(50) && first >= least,
        "{least:?} {most:?} {first:?}"
    );
    assert!(most <= Some(100), "nothing of a gigabit is left to the guests");
    assert_eq!(told("attach", "--c-fill-target"), ["1M"]);
    assert_eq!(told("attach", "--rs-discard-granularity"), ["65536"], "the pool's chunk");
    assert!(told("attach", "--c-plan-ahead").is_empty(), "0 would switch the steering off");
    assert_eq!(told("connect", "--max-buffers"), ["8000"]);
    assert_eq!(
        told("attach", "--resync-after"),
        ["6"],
        "sixteen at once would take the whole cable"
    );
}

#[tokio::test]
async fn a_copy_is_adopted_without_a_connection_and_without_asking_anybody() {
    let rig = rig();
    rig.replication.start_over(&rig.spec).await.expect("fresh");
    assert_eq!(rig.told("meta --force 7 v08"), 1);
    rig.replication.adopt(AdoptOrder::new(rig.spec.clone(), "test")).await.expect("adopted");
    let ran = rig.runner.ran();
    let at = |part: &str| ran.iter().position(|line| line.contains(part)).expect("told");
    assert!(at("apply-al") < at("setup attach"), "{ran:?}");
    assert!(at("primary 7 --force") < at("setup secondary 7"), "{ran:?}");
    assert!(at("setup secondary 7") < at("setup down"), "{ran:?}");
    let attach = &rig.runner.commands()[at("setup attach")].args;
    let fencing: Vec<_> = attach.iter().filter(|arg| arg.starts_with("--fencing")).collect();
    assert_eq!(fencing, ["--fencing=dont-care"], "a helper would be asked");
    assert_eq!(rig.told("setup connect"), 0);
}

#[tokio::test]
async fn a_volume_that_is_up_is_neither_started_over_nor_adopted() {
    let rig = rig();
    rig.knows("Connecting", "Inconsistent", "DUnknown");
    assert!(rig.replication.start_over(&rig.spec).await.is_err());
    let order = AdoptOrder::new(rig.spec.clone(), "test");
    assert!(rig.replication.adopt(order).await.is_err());
    assert!(rig.runner.ran().iter().all(|line| line.contains("events2")), "{:?}", rig.runner.ran());
}

#[tokio::test]
async fn a_number_of_another_volume_is_not_touched() {
    let mut rig = rig();
    rig.knows("Connected", "UpToDate", "UpToDate");
    rig.spec.disk = DiskName::new("other").expect("valid");
    assert!(rig.replication.attach(&rig.spec).await.is_err());
    assert!(rig.replication.create_metadata(&rig.spec).await.is_err());
    assert!(rig.replication.connect(&rig.spec).await.is_err());
    assert!(rig.runner.ran().iter().all(|line| line.contains("events2")), "{:?}", rig.runner.ran());
}

#[test]
fn a_helper_is_known_by_its_whole_command_line() {
    let dir = tempfile::tempdir().expect("temp dir");
    let process = dir.path().join("42");
    std::fs::create_dir(&process).expect("process");
    let line = b"/usr/lib/forecourt/drbd-helper\0fence-peer\0vm-data\0";
    std::fs::write(process.join("cmdline"), line).expect("cmdline");
    assert!(helper_runs(dir.path(), "vm-data").expect("looked"));
    assert!(!helper_runs(dir.path(), "vm-dat").expect("looked"), "another resource");
    std::fs::write(process.join("cmdline"), b"grep\0fence-peer\0vm-data\0").expect("cmdline");
    assert!(!helper_runs(dir.path(), "vm-data").expect("looked"), "another program");
}
