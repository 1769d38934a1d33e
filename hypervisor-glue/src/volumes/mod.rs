// SPDX-License-Identifier: Apache-2.0
//! Thin volumes: which disks may be used, the pool, template images and VM disks.
//!
//! ```text
//! disks ── survey ──► blank ── create_pool ──► VG forecourt / pool
//! create_template ─► (write) ─► seal_template ─► snapshot_template ─► vm-VM-DISK + DRBD on top
//! ```

mod fake;
mod lvm;
pub mod size;
mod survey;
mod tags;

pub use fake::FakeVolumes;
pub use lvm::LvmVolumes;

use crate::error::Result;
use async_trait::async_trait;
use provisioning_protocol::ids::{DiskName, VmName};
use provisioning_protocol::template::TemplateRef;
use std::path::PathBuf;

/// The volume group.
pub const VG: &str = "forecourt";
/// The thin pool in it.
pub const POOL: &str = "pool";
/// Partition label that offers a part of the OS disk to the volume group.
pub const LVM_PARTLABEL: &str = "forecourt-lvm";

/// What is to be done with a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskVerdict {
    /// Nothing on it: the pool may take it.
    Blank,
    /// Already a member of our volume group.
    Ours,
    /// Left alone; the reason in words.
    LeftAlone(String),
}

/// A disk or offered partition, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskReport {
    /// Device path.
    pub path: PathBuf,
    /// Model, if it tells one.
    pub model: String,
    /// Serial number, if it tells one.
    pub serial: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// What becomes of it.
    pub verdict: DiskVerdict,
}

impl DiskReport {
    /// One line for the console.
    #[must_use]
    pub fn line(&self) -> String {
        let gib = self.size_bytes / (1 << 30);
        let what = match &self.verdict {
            DiskVerdict::Blank => "blank",
            DiskVerdict::Ours => "in use for VM volumes",
            DiskVerdict::LeftAlone(reason) => reason,
        };
        format!("{} {gib} GiB {}: {what}", self.path.display(), self.model)
    }
}

/// How full the pool is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolUsage {
    /// Size of the pool's data, bytes.
    pub size_bytes: u64,
    /// Share of the data in use, percent.
    pub data_percent: f64,
    /// Share of the metadata in use, percent.
    pub metadata_percent: f64,
}

/// A template's volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateVolume {
    /// Of which template.
    pub template: TemplateRef,
    /// Device path.
    pub path: PathBuf,
    /// Exactly the image's size, bytes.
    pub size_bytes: u64,
    /// Whether it was sealed (whole, verified, read-only).
    pub sealed: bool,
}

/// A VM disk's backing volume: guest-visible bytes, then room for replication metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskVolume {
    /// Of which VM.
    pub vm: VmName,
    /// Which disk of it.
    pub disk: DiskName,
    /// Device path of the backing volume (DRBD goes on top).
    pub path: PathBuf,
    /// What the guest sees, bytes.
    pub guest_bytes: u64,
    /// The template it was made from, for a system disk.
    pub template: Option<TemplateRef>,
}

/// Why a copy of a VM disk is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeepCause {
    /// The servers have been parted for a while.
    Parted,
    /// About to be connected to the other server.
    Connect,
    /// A resync is about to begin.
    Resync,
}

impl KeepCause {
    /// As LVM keeps it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Parted => "parted",
            Self::Connect => "connect",
            Self::Resync => "resync",
        }
    }

    /// The cause of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Parted, Self::Connect, Self::Resync].into_iter().find(|cause| cause.word() == word)
    }
}

/// Orders, and describes, a copy of a VM disk as it is at one moment, replication metadata included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Of which VM.
    pub vm: VmName,
    /// Which disk of it.
    pub disk: DiskName,
    /// When it was taken, milliseconds since 1970; no two copies of a disk have the same.
    pub taken_ms: u64,
    /// Every write acknowledged up to then is in it; 0 if that is not known.
    pub holds_ms: u64,
    /// The pair's epoch on this server when it was made.
    pub epoch: u64,
    /// Why.
    pub cause: KeepCause,
}

impl Keep {
    /// The copy's name among the volumes.
    #[must_use]
    pub fn name(&self) -> String {
        // No name of a VM or disk has a dot.
        format!("vm-{}-{}.before-{}", self.vm, self.disk, self.taken_ms)
    }
}

/// A kept copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVolume {
    /// What it is a copy of.
    pub keep: Keep,
    /// Whether the disk is known to have been whole when it was made.
    pub whole: bool,
    /// Whether the disk was put back to it.
    pub used: bool,
}

/// Names one volume for removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeId {
    /// A template's volume.
    Template(TemplateRef),
    /// A VM disk.
    Disk(VmName, DiskName),
    /// A kept copy, by its name.
    Kept(String),
}

/// Proof that a removal was asked for by name. There is no way to remove all that matches.
#[derive(Debug)]
pub struct RemovalOrder {
    pub(crate) volume: VolumeId,
    pub(crate) cause: String,
}

impl RemovalOrder {
    /// Orders the removal of one volume; the cause goes to the log.
    #[must_use]
    pub fn new(volume: VolumeId, cause: impl Into<String>) -> Self {
        Self { volume, cause: cause.into() }
    }
}

/// Proof that an operator ordered a disk to be put back.
#[derive(Debug)]
pub struct RollBackOrder {
    pub(crate) keep: Keep,
    pub(crate) cause: String,
}

impl RollBackOrder {
    /// Orders one disk to be put back to this copy; the cause goes to the log.
    #[must_use]
    pub fn new(keep: Keep, cause: impl Into<String>) -> Self {
        Self { keep, cause: cause.into() }
    }
}

/// The server's volumes.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// All disks, and what may be done with each. Changes nothing.
    async fn survey(&self) -> Result<Vec<DiskReport>>;

    /// Activates the volume group if there is one; `None` if there is not.
    async fn open_pool(&self) -> Result<Option<PoolUsage>>;

    /// Makes volume group and pool on these disks, each of which must survey as blank.
    async fn create_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage>;

    /// Adds disks, each of which must survey as blank, to the pool.
    async fn extend_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage>;

    /// How full the pool is.
    async fn usage(&self) -> Result<PoolUsage>;

    /// An empty volume of exactly `size_bytes` (a multiple of 4 KiB) for a template's image, or
    /// the unsealed one begun earlier. Refused if it is sealed or has another size.
    async fn create_template(
        &self,
        template: &TemplateRef,
        size_bytes: u64,
    ) -> Result<TemplateVolume>;

    /// Makes the volume read-only: it is whole and verified.
    async fn seal_template(&self, template: &TemplateRef) -> Result<()>;

    /// All template volumes.
    async fn templates(&self) -> Result<Vec<TemplateVolume>>;

    /// A VM's system disk from a sealed template, or the one made earlier. The guest will see
    /// exactly the template's size.
    async fn snapshot_template(
        &self,
        template: &TemplateRef,
        vm: &VmName,
        disk: &DiskName,
    ) -> Result<DiskVolume>;

    /// A VM's empty data disk, or the one made earlier.
    async fn create_data(
        &self,
        vm: &VmName,
        disk: &DiskName,
        guest_bytes: u64,
    ) -> Result<DiskVolume>;

    /// All VM disks.
    async fn disks(&self) -> Result<Vec<DiskVolume>>;

    /// Keeps a copy of a VM disk, which may be in use. It counts for nothing before
    /// [`Volumes::prove_kept`], unless `proven` says that nothing can write to the disk meanwhile.
    async fn keep(&self, keep: &Keep, proven: bool) -> Result<()>;

    /// The disk was whole, and still is, after the copy was made.
    async fn prove_kept(&self, keep: &Keep) -> Result<()>;

    /// All kept copies, those that count for nothing included.
    async fn kept(&self) -> Result<Vec<KeptVolume>>;

    /// Makes a volume of a whole copy that is to take the place of its disk, and gives its device. The
    /// disk is not touched. Safe to repeat.
    async fn begin_roll_back(&self, order: &RollBackOrder) -> Result<PathBuf>;

    /// Lets it take the place of the disk, which nobody has open; the copy stays and is marked as used.
    /// What the disk held is gone.
    async fn finish_roll_back(&self, order: RollBackOrder) -> Result<()>;

    /// Removes one volume for ever.
    async fn remove(&self, order: RemovalOrder) -> Result<()>;
}
