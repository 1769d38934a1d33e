// SPDX-License-Identifier: Apache-2.0
//! The server's volumes on LVM-thin.
//!
//! What a volume is stands in its LVM tags, so a crash between two steps leaves a volume that
//! the next try recognises and finishes. Names alone would be ambiguous (`vm-a-b-c`).

use super::size::{backing_bytes, size_problem};
use super::tags::{KeptState, Kind, Tags};
use super::{
    DiskReport, DiskVerdict, DiskVolume, Keep, KeptVolume, POOL, PoolUsage, RemovalOrder,
    RollBackOrder, TemplateVolume, VG, VolumeId, Volumes,
};
use crate::command::{Command, CommandRunner};
use crate::error::{GlueError, Result};
use async_trait::async_trait;
use provisioning_protocol::ids::{DiskName, VmName};
use provisioning_protocol::template::TemplateRef;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

mod kept;

/// LVM must never look into what guests write (their own volume groups would clash with or be
/// opened beside ours), and keeps nothing in the read-only root.
const CONFIG: &str = "devices{global_filter=[\"r|^/dev/drbd|\",\"r|^/dev/zd|\",\"r|^/dev/loop|\",\
                      \"r|^/dev/nbd|\"] scan_lvs=0 use_devicesfile=0} backup{backup=0 archive=0} \
                      global{event_activation=0} activation{monitoring=0}";
const CHUNK: &str = "64k";
/// Generous: an emulated, busy server takes 20 s for what real ones do in one.
const LIMIT: Duration = Duration::from_secs(180);

/// [`Volumes`] on LVM-thin.
pub struct LvmVolumes {
    runner: Arc<dyn CommandRunner>,
    /// LVM serialises commands by itself; this keeps our check-then-act sequences whole.
    turn: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    path: PathBuf,
    size: u64,
    read_only: bool,
    tags: Tags,
}

impl LvmVolumes {
    /// The server's volumes, through this runner.
    #[must_use]
    pub fn new(runner: Arc<dyn CommandRunner>) -> Self {
        Self { runner, turn: Mutex::new(()) }
    }

    async fn lvm(&self, words: &[&str]) -> Result<String> {
        self.runner.check(lvm_command(words)).await
    }

    async fn rows(&self) -> Result<Vec<Row>> {
        let columns = "lv_name,lv_path,lv_size,lv_attr,lv_tags";
        let rows = report(&*self.runner, "lvs", "lv", columns, &[VG]).await?;
        Ok(rows.into_iter().filter_map(parse_row).collect())
    }

    async fn find(&self, name: &str) -> Result<Option<Row>> {
        Ok(self.rows().await?.into_iter().find(|row| row.name == name))
    }

    async fn blank_only(&self, operation: &str, disks: &[PathBuf]) -> Result<()> {
        let found = super::survey::survey(&*self.runner).await?;
        for disk in disks {
            let verdict = found.iter().find(|report| &report.path == disk);
            let reason = match verdict.map(|report| &report.verdict) {
                Some(DiskVerdict::Blank) => continue,
                Some(DiskVerdict::Ours) => "it is in use already".to_owned(),
                Some(DiskVerdict::LeftAlone(reason)) => reason.clone(),
                None => "there is no such disk".to_owned(),
            };
            return Err(GlueError::refused(format!("{operation} {}", disk.display()), reason));
        }
        Ok(())
    }

    async fn group_exists(&self) -> Result<bool> {
        let rows = report(&*self.runner, "vgs", "vg", "vg_name", &[]).await?;
        match rows.iter().filter(|row| row.get("vg_name").is_some_and(|name| name == VG)).count() {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(GlueError::refused(
                "open the volume group",
                "disks of two different servers are present; remove the foreign one",
            )),
        }
    }

    async fn pool_exists(&self) -> Result<bool> {
        let rows = report(&*self.runner, "lvs", "lv", "lv_name", &[VG]).await?;
        Ok(rows.iter().any(|row| row.get("lv_name").is_some_and(|name| name == POOL)))
    }

    async fn make_pool(&self) -> Result<()> {
        let words = [
            "lvcreate",
            "--type",
            "thin-pool",
            "--name",
            POOL,
            "--extents",
            "95%FREE",
            "--chunksize",
            CHUNK,
            "--zero",
            "y",
            "--discards",
            "passdown",
            VG,
        ];
        self.lvm(&words).await?;
        // A full pool is an error at once: a write that hangs for a minute is worse. (lvcreate
        // lists the option, and refuses it.)
        self.lvm(&["lvchange", "--errorwhenfull", "y", &format!("{VG}/{POOL}")]).await.map(drop)
    }

    /// Makes the backing volume of a disk at least as large as it must be.
    async fn extend(&self, row: &Row, guest_bytes: u64) -> Result<()> {
        let want = backing_bytes(guest_bytes);
        if row.size >= want {
            return Ok(());
        }
        let (name, size) = (format!("{VG}/{}", row.name), format!("{want}b"));
        self.lvm(&["lvextend", "--size", &size, &name]).await.map(drop)
    }

    /// A volume that exists already, brought to its size.
    async fn finish_disk(&self, row: &Row) -> Result<DiskVolume> {
        self.extend(row, row.tags.bytes).await?;
        row.disk_volume()
            .ok_or_else(|| GlueError::Missing { what: format!("disk volume {}", row.name) })
    }
}

/// The volume of that name, if it is there; refused if it is another's.
fn existing(rows: Vec<Row>, name: &str, tags: &Tags) -> Result<Option<Row>> {
    match rows.into_iter().find(|row| row.name == name) {
        Some(row) if row.tags != *tags => Err(GlueError::refused(
            format!("make volume {name}"),
            format!("a volume of that name exists for something else: {:?}", row.tags),
        )),
        found => Ok(found),
    }
}

impl Row {
    /// A volume made just now: LVM reports it done only when its device is there.
    fn made(name: String, tags: Tags, size: u64) -> Self {
        let path = PathBuf::from(format!("/dev/{VG}/{name}"));
        Self { name, path, size, read_only: false, tags }
    }

    fn disk_volume(&self) -> Option<DiskVolume> {
        let Kind::Disk { vm, disk, template } = &self.tags.kind else { return None };
        // Under any other name it is on its way to become the disk, and is none yet.
        if self.name != disk_name(vm, disk) {
            return None;
        }
        Some(DiskVolume {
            vm: vm.clone(),
            disk: disk.clone(),
            path: self.path.clone(),
            guest_bytes: self.tags.bytes,
            template: template.clone(),
        })
    }

    fn template_volume(&self) -> Option<TemplateVolume> {
        let Kind::Template(template) = &self.tags.kind else { return None };
        Some(TemplateVolume {
            template: template.clone(),
            path: self.path.clone(),
            size_bytes: self.tags.bytes,
            sealed: self.read_only,
        })
    }
}

fn template_name(template: &TemplateRef) -> String {
    format!("tpl-{}-{}", template.name, template.version)
}

fn disk_name(vm: &VmName, disk: &DiskName) -> String {
    format!("vm-{vm}-{disk}")
}

fn volume_name(volume: &VolumeId) -> String {
    match volume {
        VolumeId::Template(template) => template_name(template),
        VolumeId::Disk(vm, disk) => disk_name(vm, disk),
        VolumeId::Kept(name) => name.clone(),
    }
}

fn lvm_command(words: &[&str]) -> Command {
    let (verb, rest) = words.split_first().expect("callers name an LVM command");
    let head = ["--config", CONFIG].into_iter();
    Command::new(verb, head.chain(rest.iter().copied())).limit(LIMIT)
}

fn parse_row(mut row: BTreeMap<String, String>) -> Option<Row> {
    let tags = Tags::parse(row.get("lv_tags")?)?;
    let attr = row.remove("lv_attr")?;
    Some(Row {
        name: row.remove("lv_name")?,
        path: PathBuf::from(row.remove("lv_path")?),
        size: row.remove("lv_size")?.parse().ok()?,
        read_only: attr.as_bytes().get(1).is_some_and(|b| matches!(b, b'r' | b'R')),
        tags,
    })
}

/// Runs `pvs`, `vgs` or `lvs` and gives its rows.
pub(super) async fn report(
    runner: &dyn CommandRunner,
    verb: &str,
    key: &str,
    columns: &str,
    of: &[&str],
) -> Result<Vec<BTreeMap<String, String>>> {
    let words = [verb, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns];
    let text = runner.check(lvm_command(&[&words[..], of].concat())).await?;
    let reply: LvmReply =
        serde_json::from_str(&text).map_err(|err| GlueError::parse(verb.to_owned(), err))?;
    Ok(reply.report.into_iter().filter_map(|mut part| part.remove(key)).flatten().collect())
}

#[derive(Deserialize)]
struct LvmReply {
    report: Vec<BTreeMap<String, Vec<BTreeMap<String, String>>>>,
}

#[async_trait]
impl Volumes for LvmVolumes {
    async fn survey(&self) -> Result<Vec<DiskReport>> {
        super::survey::survey(&*self.runner).await
    }

    async fn open_pool(&self) -> Result<Option<PoolUsage>> {
        let _turn = self.turn.lock().await;
        if !self.group_exists().await? || !self.pool_exists().await? {
            return Ok(None);
        }
        self.lvm(&["vgchange", "--activate", "y", VG]).await?;
        self.usage().await.map(Some)
    }

    async fn create_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage> {
        let _turn = self.turn.lock().await;
        if self.group_exists().await? {
            if self.pool_exists().await? {
                return Err(GlueError::refused("make the volume group", "there is one already"));
            }
        } else {
            if disks.is_empty() {
                return Err(GlueError::refused("make the volume group", "no blank disk is given"));
            }
            self.blank_only("take disk", disks).await?;
            let paths: Vec<String> = disks.iter().map(|disk| disk.display().to_string()).collect();
            let mut words = vec!["vgcreate", "--physicalextentsize", "4m", VG];
            words.extend(paths.iter().map(String::as_str));
            self.lvm(&words).await?;
            tracing::info!(disks = ?paths, "volume group made");
        }
        self.make_pool().await?;
        self.usage().await
    }

    async fn extend_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage> {
        let _turn = self.turn.lock().await;
        self.blank_only("take disk", disks).await?;
        let paths: Vec<String> = disks.iter().map(|disk| disk.display().to_string()).collect();
        let mut words = vec!["vgextend", VG];
        words.extend(paths.iter().map(String::as_str));
        self.lvm(&words).await?;
        let pool = format!("{VG}/{POOL}");
        self.lvm(&["lvextend", "--extents", "+95%FREE", &pool]).await?;
        self.usage().await
    }

    async fn usage(&self) -> Result<PoolUsage> {
        let columns = "lv_size,data_percent,metadata_percent";
        let pool = format!("{VG}/{POOL}");
        let rows = report(&*self.runner, "lvs", "lv", columns, &[&pool]).await?;
        let row = rows.first().ok_or_else(|| GlueError::Missing { what: pool.clone() })?;
        let number = |key: &str| -> Result<f64> {
            let text = row.get(key).map_or("", |text| text.trim());
            text.parse().map_err(|err| GlueError::parse(format!("{key} of {pool}"), err))
        };
        let size = row.get("lv_size").map_or("", |text| text.trim());
        Ok(PoolUsage {
            size_bytes: size.parse().map_err(|err| GlueError::parse("the pool's size", err))?,
            data_percent: number("data_percent")?,
            metadata_percent: number("metadata_percent")?,
        })
    }

    async fn create_template(
        &self,
        template: &TemplateRef,
        size_bytes: u64,
    ) -> Result<TemplateVolume> {
        let _turn = self.turn.lock().await;
        let name = template_name(template);
        let refuse = |reason: String| GlueError::refused(format!("make volume {name}"), reason);
        if let Some(problem) = size_problem(size_bytes) {
            return Err(refuse(problem));
        }
        let tags = Tags { kind: Kind::Template(template.clone()), bytes: size_bytes };
        let row = if let Some(row) = existing(self.rows().await?, &name, &tags)? {
            row
        } else {
            self.thin(size_bytes, &name, &tags).await?;
            Row::made(name.clone(), tags, size_bytes)
        };
        if row.read_only {
            return Err(refuse("it is sealed already".to_owned()));
        }
        row.template_volume().ok_or_else(|| refuse("it is no template".to_owned()))
    }

    async fn seal_template(&self, template: &TemplateRef) -> Result<()> {
        let _turn = self.turn.lock().await;
        let name = template_name(template);
        let missing = || GlueError::Missing { what: format!("volume {name}") };
        let row = self.find(&name).await?.ok_or_else(missing)?;
        if row.read_only {
            return Ok(());
        }
        self.lvm(&["lvchange", "--permission", "r", &format!("{VG}/{name}")]).await.map(drop)
    }

    async fn templates(&self) -> Result<Vec<TemplateVolume>> {
        Ok(self.rows().await?.iter().filter_map(Row::template_volume).collect())
    }

    async fn snapshot_template(
        &self,
        template: &TemplateRef,
        vm: &VmName,
        disk: &DiskName,
    ) -> Result<DiskVolume> {
        let _turn = self.turn.lock().await;
        let (origin, name) = (template_name(template), disk_name(vm, disk));
        let mut rows = self.rows().await?;
        self.finish_put_back(&mut rows, &name).await?;
        let source = rows.iter().find(|row| row.name == origin && row.read_only);
        let source = source.ok_or_else(|| {
            GlueError::refused(format!("make volume {name}"), format!("{origin} is not sealed"))
        })?;
        let kind =
            Kind::Disk { vm: vm.clone(), disk: disk.clone(), template: Some(template.clone()) };
        let (tags, size) = (Tags { kind, bytes: source.tags.bytes }, source.size);
        let row = if let Some(row) = existing(rows, &name, &tags)? {
            row
        } else {
            self.snapshot(&name, &tags, &origin).await?;
            Row::made(name, tags, size)
        };
        self.finish_disk(&row).await
    }

    async fn create_data(
        &self,
        vm: &VmName,
        disk: &DiskName,
        guest_bytes: u64,
    ) -> Result<DiskVolume> {
        let _turn = self.turn.lock().await;
        let name = disk_name(vm, disk);
        if let Some(problem) = size_problem(guest_bytes) {
            return Err(GlueError::refused(format!("make volume {name}"), problem));
        }
        let kind = Kind::Disk { vm: vm.clone(), disk: disk.clone(), template: None };
        let tags = Tags { kind, bytes: guest_bytes };
        let mut rows = self.rows().await?;
        self.finish_put_back(&mut rows, &name).await?;
        let row = if let Some(row) = existing(rows, &name, &tags)? {
            row
        } else {
            let size = backing_bytes(guest_bytes);
            self.thin(size, &name, &tags).await?;
            Row::made(name, tags, size)
        };
        self.finish_disk(&row).await
    }

    async fn disks(&self) -> Result<Vec<DiskVolume>> {
        Ok(self.rows().await?.iter().filter_map(Row::disk_volume).collect())
    }

    async fn keep(&self, keep: &Keep, proven: bool) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.keep_copy(keep, proven).await
    }

    async fn prove_kept(&self, keep: &Keep) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.mark_kept(keep, KeptState::Unproven, KeptState::Whole).await
    }

    async fn kept(&self) -> Result<Vec<KeptVolume>> {
        Ok(self.rows().await?.iter().filter_map(Row::kept_volume).collect())
    }

    async fn begin_roll_back(&self, order: &RollBackOrder) -> Result<PathBuf> {
        let _turn = self.turn.lock().await;
        self.make_back(&order.keep).await
    }

    async fn finish_roll_back(&self, order: RollBackOrder) -> Result<()> {
        let _turn = self.turn.lock().await;
        tracing::warn!(copy = %order.keep.name(), cause = %order.cause, "disk is put back");
        self.exchange(&order.keep).await
    }

    async fn remove(&self, order: RemovalOrder) -> Result<()> {
        let _turn = self.turn.lock().await;
        let name = volume_name(&order.volume);
        let row = self.find(&name).await?;
        if !row.is_some_and(|row| row.tags.is(&order.volume)) {
            return Err(GlueError::Missing { what: format!("volume {name}") });
        }
        tracing::warn!(volume = %name, cause = %order.cause, "volume is removed");
        self.lvm(&["lvremove", "--yes", &format!("{VG}/{name}")]).await.map(drop)
    }
}

impl LvmVolumes {
    async fn thin(&self, bytes: u64, name: &str, tags: &Tags) -> Result<()> {
        let (tags, size) = (tags.words(), format!("{bytes}b"));
        let mut all = vec!["lvcreate", "--type", "thin", "--wipesignatures", "n"];
        all.extend(["--virtualsize", &size, "--name", name, "--thinpool", POOL]);
        for tag in &tags {
            all.extend(["--addtag", tag]);
        }
        all.push(VG);
        self.lvm(&all).await.map(drop)
    }

    async fn snapshot(&self, name: &str, tags: &Tags, origin: &str) -> Result<()> {
        let (tags, target) = (tags.words(), format!("{VG}/{origin}"));
        let mut all = vec!["lvcreate", "--snapshot", "--setactivationskip", "n"];
        all.extend(["--permission", "rw", "--name", name]);
        for tag in &tags {
            all.extend(["--addtag", tag]);
        }
        all.push(&target);
        self.lvm(&all).await.map(drop)
    }
}
