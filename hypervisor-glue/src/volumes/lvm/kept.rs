// SPDX-License-Identifier: Apache-2.0
//! Copies of VM disks kept as thin snapshots, and putting a disk back to one.
//!
//! A copy is read-only and never activated. It says by its tags what it is, so that it and the record
//! of it are made in one step. To put a disk back, a second snapshot is made of the copy, is prepared by
//! the caller, and takes the disk's name; the copy stays. (`lvconvert --merge` would use it up.) If that
//! is cut off between removal and renaming, whoever wants the disk next finishes it:
//! [`LvmVolumes::finish_put_back`].

use super::{KeptState, Kind, LvmVolumes, Row, Tags, disk_name};
use crate::error::{GlueError, Result};
use crate::volumes::tags::state_tag;
use crate::volumes::{Keep, KeptVolume, VG};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// udev may have a disk open for a moment after DRBD let go of it.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);

/// What is to become the disk, until it has its name.
fn back_name(disk: &str) -> String {
    format!("{disk}.back")
}

impl Row {
    pub(super) fn kept_volume(&self) -> Option<KeptVolume> {
        let Kind::Kept { keep, state } = &self.tags.kind else { return None };
        let whole = *state != KeptState::Unproven;
        Some(KeptVolume { keep: keep.clone(), whole, used: *state == KeptState::Used })
    }
}

impl LvmVolumes {
    pub(super) async fn keep_copy(&self, keep: &Keep, proven: bool) -> Result<()> {
        let (disk, name) = (disk_name(&keep.vm, &keep.disk), keep.name());
        let missing = || GlueError::Missing { what: format!("disk volume {disk}") };
        let bytes = self.find(&disk).await?.ok_or_else(missing)?.tags.bytes;
        let state = if proven { KeptState::Whole } else { KeptState::Unproven };
        let tags = Tags { kind: Kind::Kept { keep: keep.clone(), state }, bytes }.words();
        let origin = format!("{VG}/{disk}");
        let mut all = vec!["lvcreate", "--snapshot", "--setactivationskip", "y"];
        all.extend(["--permission", "r", "--name", &name]);
        for tag in &tags {
            all.extend(["--addtag", tag]);
        }
        all.push(&origin);
        self.lvm(&all).await.map(drop)
    }

    /// Changes the tag that says what has become of a copy, in one commit.
    pub(super) async fn mark_kept(
        &self,
        keep: &Keep,
        from: KeptState,
        to: KeptState,
    ) -> Result<()> {
        let (from, to) = (state_tag(from), state_tag(to));
        let name = format!("{VG}/{}", keep.name());
        self.lvm(&["lvchange", "--deltag", &from, "--addtag", &to, &name]).await.map(drop)
    }

    /// Makes what is to become the disk.
    pub(super) async fn make_back(&self, keep: &Keep) -> Result<PathBuf> {
        let (disk, copy) = (disk_name(&keep.vm, &keep.disk), keep.name());
        let back = back_name(&disk);
        let refuse = |reason: &str| GlueError::refused(format!("put {disk} back"), reason);
        let rows = self.rows().await?;
        let named = |name: &str| rows.iter().find(|row| row.name == name);
        let kept = named(&copy).and_then(Row::kept_volume);
        if !kept.ok_or_else(|| refuse("the copy is not there"))?.whole {
            return Err(refuse("the copy is not known to be whole"));
        }
        match (named(&disk), named(&back)) {
            (Some(old), left) => {
                if left.is_some() {
                    self.lvm(&["lvremove", "--yes", &format!("{VG}/{back}")]).await?;
                }
                self.snapshot(&back, &old.tags, &copy).await?;
            }
            (None, Some(_)) => {}
            (None, None) => return Err(refuse("there is no such disk")),
        }
        Ok(PathBuf::from(format!("/dev/{VG}/{back}")))
    }

    /// Lets it take the disk's place.
    pub(super) async fn exchange(&self, keep: &Keep) -> Result<()> {
        let disk = disk_name(&keep.vm, &keep.disk);
        let back = back_name(&disk);
        let rows = self.rows().await?;
        if !rows.iter().any(|row| row.name == back) {
            let reason = "nothing is there to take its place";
            return Err(GlueError::refused(format!("put {disk} back"), reason));
        }
        let (path, back) = (format!("{VG}/{disk}"), format!("{VG}/{back}"));
        if rows.iter().any(|row| row.name == disk) {
            self.close(&path).await?;
            self.lvm(&["lvremove", "--yes", &path]).await?;
        }
        self.lvm(&["lvrename", &back, &path]).await?;
        self.mark_kept(keep, KeptState::Whole, KeptState::Used).await
    }

    /// A disk that is missing because putting it back was cut off is there under another name.
    pub(super) async fn finish_put_back(&self, rows: &mut [Row], disk: &str) -> Result<()> {
        let back = back_name(disk);
        if rows.iter().any(|row| row.name == disk) {
            return Ok(());
        }
        if let Some(row) = rows.iter_mut().find(|row| row.name == back) {
            self.lvm(&["lvrename", &format!("{VG}/{back}"), &format!("{VG}/{disk}")]).await?;
            *row = Row::made(disk.to_owned(), row.tags.clone(), row.size);
        }
        Ok(())
    }

    async fn close(&self, disk: &str) -> Result<()> {
        let until = Instant::now() + BUSY_LIMIT;
        loop {
            match self.lvm(&["lvchange", "--activate", "n", disk]).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(RETRY).await,
                other => return other.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FakeRunner, Finished};
    use crate::volumes::{KeepCause, RollBackOrder, Volumes};
    use provisioning_protocol::ids::{DiskName, VmName};
    use serde_json::json;
    use std::sync::Arc;

    fn keep() -> Keep {
        Keep {
            vm: VmName::new("till").expect("valid"),
            disk: DiskName::new("data").expect("valid"),
            taken_ms: 1_795_340_467_000,
            holds_ms: 1_795_340_461_000,
            epoch: 7,
            cause: KeepCause::Parted,
        }
    }

    fn row(name: &str, tags: &Tags) -> serde_json::Value {
        json!({ "lv_name": name, "lv_path": format!("/dev/forecourt/{name}"), "lv_size": "20971520",
                "lv_attr": "Vwi-a-tz--", "lv_tags": tags.words().join(",") })
    }

    /// LVM with the disk and, in that state, its copy.
    fn lvm(copy: Option<KeptState>) -> (FakeRunner, LvmVolumes) {
        let runner = FakeRunner::new();
        for verb in ["lvcreate", "lvchange", "lvremove", "lvrename"] {
            runner.on_prefix(verb, Finished::with_stdout(""));
        }
        let Keep { vm, disk, .. } = keep();
        let kind = Kind::Disk { vm, disk, template: None };
        let mut rows = vec![row("vm-till-data", &Tags { kind, bytes: 16 << 20 })];
        rows.extend(copy.map(|state| {
            let kind = Kind::Kept { keep: keep(), state };
            row(&keep().name(), &Tags { kind, bytes: 16 << 20 })
        }));
        let lvs = json!({ "report": [{ "lv": rows }] }).to_string();
        runner.on_prefix("lvs", Finished::with_stdout(lvs));
        let volumes = LvmVolumes::new(Arc::new(runner.clone()));
        (runner, volumes)
    }

    /// What LVM was told to change, without its configuration.
    fn orders(runner: &FakeRunner) -> Vec<String> {
        let commands = runner.commands().into_iter().filter(|command| command.program != "lvs");
        commands.map(|c| format!("{} {}", c.program, c.args[2..].join(" "))).collect()
    }

    #[tokio::test]
    async fn a_copy_and_its_record_are_made_in_one_step_and_it_counts_once_proven() {
        let (runner, volumes) = lvm(None);
        volumes.keep(&keep(), false).await.expect("kept");
        let told = orders(&runner);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in ["lvcreate --snapshot", "--permission r", "fc.kept=unproven", "fc.kept-epoch=7"]
        {
            assert!(told[0].contains(part), "no {part} in {told:?}");
        }
        assert!(told[0].ends_with("forecourt/vm-till-data"), "{told:?}");
        let (runner, volumes) = lvm(Some(KeptState::Unproven));
        assert!(volumes.kept().await.expect("listed").iter().all(|kept| !kept.whole));
        assert_eq!(volumes.disks().await.expect("listed").len(), 1, "the copy passes for a disk");
        volumes.prove_kept(&keep()).await.expect("proven");
        let told = orders(&runner);
        assert!(told[0].contains("--deltag fc.kept=unproven --addtag fc.kept=whole"), "{told:?}");
    }

    #[tokio::test]
    async fn a_disk_is_put_back_by_exchange_and_the_copy_stays() {
        let (runner, volumes) = lvm(Some(KeptState::Whole));
        let order = RollBackOrder::new(keep(), "test");
        let path = volumes.begin_roll_back(&order).await.expect("begun");
        assert_eq!(path.to_str(), Some("/dev/forecourt/vm-till-data.back"));
        assert_eq!(orders(&runner).len(), 1, "the disk is not touched yet");
        assert!(volumes.finish_roll_back(order).await.is_err(), "it is not there");
        let Keep { vm, disk, .. } = keep();
        let kind = Kind::Disk { vm, disk, template: None };
        let tags = Tags { kind, bytes: 16 << 20 };
        let rows = [row("vm-till-data", &tags), row("vm-till-data.back", &tags)];
        let lvs = json!({ "report": [{ "lv": rows }] }).to_string();
        runner.on_prefix("lvs", Finished::with_stdout(lvs));
        volumes.finish_roll_back(RollBackOrder::new(keep(), "test")).await.expect("put back");
        let told = orders(&runner);
        let verbs: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(verbs, ["lvcreate", "lvchange", "lvremove", "lvrename", "lvchange"], "{told:?}");
        assert!(told[0].ends_with(&format!("{VG}/{}", keep().name())), "{told:?}");
        assert!(told[0].contains("fc.vm=till"), "it would not be known as the disk: {told:?}");
        assert!(told[2].ends_with("forecourt/vm-till-data"), "not the copy: {told:?}");
        assert!(told[4].contains("fc.kept=used"), "{told:?}");
    }

    #[tokio::test]
    async fn a_disk_whose_exchange_was_cut_off_is_found_and_no_new_one_is_made() {
        let (runner, volumes) = lvm(Some(KeptState::Whole));
        let Keep { vm, disk, .. } = keep();
        let kind = Kind::Disk { vm: vm.clone(), disk: disk.clone(), template: None };
        let rows = [row("vm-till-data.back", &Tags { kind, bytes: 16 << 20 })];
        let lvs = json!({ "report": [{ "lv": rows }] }).to_string();
        runner.on_prefix("lvs", Finished::with_stdout(lvs));
        runner.on_prefix("lvrename", Finished::with_stdout(""));
        assert!(volumes.disks().await.expect("listed").is_empty(), "not under that name");
        let made = volumes.create_data(&vm, &disk, 16 << 20).await.expect("found");
        assert!(made.path.ends_with("vm-till-data"), "{made:?}");
        let told = orders(&runner);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("lvrename forecourt/vm-till-data.back"), "{told:?}");
    }

    #[tokio::test]
    async fn nothing_is_put_back_to_a_copy_that_may_be_half_or_is_not_there() {
        for copy in [Some(KeptState::Unproven), None] {
            let (runner, volumes) = lvm(copy);
            let result = volumes.begin_roll_back(&RollBackOrder::new(keep(), "test")).await;
            assert!(matches!(result, Err(GlueError::Refused { .. })), "{result:?}");
            assert!(orders(&runner).is_empty(), "{:?}", orders(&runner));
        }
    }

    #[tokio::test]
    async fn a_disk_that_stays_open_is_not_exchanged() {
        let (runner, volumes) = lvm(Some(KeptState::Whole));
        runner.on(|command| {
            let closes = command.args.iter().any(|arg| arg == "--activate")
                && command.args.iter().any(|arg| arg == "n");
            closes.then(|| Finished::with_code(5, "Logical volume in use."))
        });
        let Keep { vm, disk, .. } = keep();
        let kind = Kind::Disk { vm, disk, template: None };
        let tags = Tags { kind, bytes: 16 << 20 };
        let rows = [row("vm-till-data", &tags), row("vm-till-data.back", &tags)];
        let lvs = json!({ "report": [{ "lv": rows }] }).to_string();
        runner.on_prefix("lvs", Finished::with_stdout(lvs));
        let result = volumes.finish_roll_back(RollBackOrder::new(keep(), "test")).await;
        assert!(result.is_err());
        assert!(!orders(&runner).iter().any(|line| line.starts_with("lvremove")));
    }
}
