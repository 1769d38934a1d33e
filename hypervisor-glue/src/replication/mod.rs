// SPDX-License-Identifier: Apache-2.0
//! Replicated volumes: DRBD 8.4 on a VM disk's backing volume, driven without config files.
//!
//! ```text
//! load ─► create_metadata (once) ─► attach (every boot) ─► connect ─► skip_first_sync (once,
//! one side) ─► primary ⇄ secondary;  evict = detach_forced, resume_io, kill the VM, secondary, down
//! ```
//! The order of an eviction is the caller's, with [`HelpersGone`] as the ticket where a wrong
//! order would crash the kernel.

mod drbd;
mod events;
mod fake;
mod metadata;
mod parse;

pub use drbd::{DrbdPaths, DrbdReplication, backing_bytes};
pub use fake::FakeReplication;
#[doc(hidden)]
pub use parse::read_any as read_drbd;

use crate::error::Result;
use async_trait::async_trait;
use provisioning_protocol::desired::Secret;
use provisioning_protocol::ids::{DiskName, NodeSlot, VmName};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// First TCP port of replication; a volume's port is this plus its number.
pub const PORT_BASE: u16 = 7700;
/// Highest volume number (ports must fit, and it is a DRBD minor).
pub const NUMBER_MAX: u32 = 255;

/// The replication address of a server, on its loopback side; a /128 route leads to the peer's.
#[must_use]
pub fn replication_address(slot: NodeSlot) -> Ipv6Addr {
    let last = match slot {
        NodeSlot::A => 0xa,
        NodeSlot::B => 0xb,
    };
    Ipv6Addr::new(0xfd46, 0x4f52, 0x45ff, 0, 0, 0, 0, last)
}

/// A replicated volume, as both servers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Of which VM.
    pub vm: VmName,
    /// Which disk of it.
    pub disk: DiskName,
    /// DRBD minor; the port is 7700 + number.
    pub number: u32,
    /// Backing volume on this server.
    pub backing: PathBuf,
    /// What the guest must see, bytes.
    pub guest_bytes: u64,
    /// Own replication address.
    pub own: IpAddr,
    /// The peer's.
    pub peer: IpAddr,
    /// Shared secret of the handshake.
    pub secret: Secret,
}

impl ReplicaSpec {
    /// DRBD resource name.
    #[must_use]
    pub fn resource(&self) -> String {
        resource_name(&self.vm, &self.disk)
    }

    /// The device VMs use.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        device_path(self.number)
    }
}

/// DRBD resource name of a VM disk.
#[must_use]
pub fn resource_name(vm: &VmName, disk: &DiskName) -> String {
    format!("{vm}-{disk}")
}

/// `/dev/drbdN`.
#[must_use]
pub fn device_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/drbd{number}"))
}

/// Whether `create_metadata` made something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataOutcome {
    /// Made now: the volume was never replicated before.
    Created,
    /// There already; not touched.
    Existed,
}

/// DRBD's connection states that matter; `Other` keeps the rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// No connection wanted (after `disconnect`, or a refusal).
    StandAlone,
    /// Being torn down.
    Disconnecting,
    /// Waiting for the peer.
    Connecting,
    /// Lost: timeout, broken pipe, network failure, protocol error.
    Lost,
    /// Connected and equal.
    Connected,
    /// Handshaking or exchanging bitmaps.
    Negotiating,
    /// We receive what we lack.
    SyncTarget,
    /// We send what the peer lacks.
    SyncSource,
    /// Verifying, or paused resync.
    Other(String),
}

impl LinkState {
    /// Whether writes reach the peer.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Connected | Self::SyncTarget | Self::SyncSource)
            || matches!(self, Self::Other(name) if name.starts_with("PausedSync")
                || name.starts_with("Verify"))
    }
}

/// Role of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// May be written by a VM here.
    Primary,
    /// Receives.
    Secondary,
    /// Not known (the peer's, while not connected).
    Unknown,
}

/// State of one side's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskState {
    /// No disk attached.
    Diskless,
    /// Attaching or detaching.
    Transient,
    /// Failed by an I/O error.
    Failed,
    /// Partly copied: no use alone.
    Inconsistent,
    /// Consistent but known to be old.
    Outdated,
    /// The peer's, while not connected.
    Unknown,
    /// Consistent; whether it is the newest is not known until connected or granted.
    Consistent,
    /// The newest.
    UpToDate,
}

/// A replicated volume as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// DRBD resource name.
    pub resource: String,
    /// Minor.
    pub number: u32,
    /// Own role.
    pub role: Role,
    /// The peer's role.
    pub peer_role: Role,
    /// Own data.
    pub disk: DiskState,
    /// The peer's data.
    pub peer_disk: DiskState,
    /// The connection.
    pub link: LinkState,
    /// Whether I/O is frozen waiting for an arbitration.
    pub frozen: bool,
    /// Bytes out of sync.
    pub out_of_sync_bytes: u64,
    /// Resync progress, while there is one.
    pub resync_percent: Option<u8>,
}

/// What the kernel reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// Something about a resource changed: its connection, role or disk. Ask for its status.
    Changed {
        /// DRBD resource name.
        resource: String,
        /// What changed, in the kernel's words, for the log.
        detail: String,
    },
    /// A connection changed state.
    Link {
        /// DRBD resource name.
        resource: String,
        /// The new state.
        link: LinkState,
    },
    /// Somebody's role changed and nothing else.
    Role {
        /// DRBD resource name.
        resource: String,
    },
    /// The stream was interrupted or began: anything may have changed.
    Restarted,
}

/// Proof that no fence-peer helper of a resource is outstanding.
///
/// `down` while one is outstanding crashes the kernel (Linux 6.12 dereferences NULL when the
/// helper exits later), so [`Replication::down`] asks for it.
#[derive(Debug)]
pub struct HelpersGone {
    pub(crate) resource: String,
}

/// Proof that an operator ordered a volume's own copy to be declared the newest.
#[derive(Debug)]
pub struct AdoptOrder {
    pub(crate) spec: ReplicaSpec,
    pub(crate) cause: String,
}

impl AdoptOrder {
    /// Orders it for one volume; the cause goes to the log.
    #[must_use]
    pub fn new(spec: ReplicaSpec, cause: impl Into<String>) -> Self {
        Self { spec, cause: cause.into() }
    }
}

/// The server's replicated volumes. Every operation is bounded in time.
#[async_trait]
pub trait Replication: Send + Sync {
    /// Loads the kernel module with our helper. Safe to repeat.
    async fn load(&self) -> Result<()>;

    /// Writes DRBD metadata to the backing volume, unless it has some.
    async fn create_metadata(&self, spec: &ReplicaSpec) -> Result<MetadataOutcome>;

    /// Brings the volume up locally: `apply-al`, resource, minor, disk; checks that the device
    /// has exactly `guest_bytes`. Safe to repeat.
    async fn attach(&self, spec: &ReplicaSpec) -> Result<()>;

    /// Starts connecting (again). Safe to repeat.
    async fn connect(&self, spec: &ReplicaSpec) -> Result<()>;

    /// Stops the connection. A secondary that does this while connected becomes outdated.
    async fn disconnect(&self, spec: &ReplicaSpec) -> Result<()>;

    /// Declares both sides equal without copying: on ONE side of a NEW volume, connected, with
    /// identical content. Refused unless both disks are `Inconsistent` and connected.
    async fn skip_first_sync(&self, spec: &ReplicaSpec) -> Result<()>;

    /// Makes this side primary, retrying for up to `limit` (5 s is the rule: the kernel may not
    /// have seen the link die yet). The caller holds the right to do so.
    async fn primary(&self, number: u32, limit: Duration) -> Result<()>;

    /// Gives up the primary role.
    async fn secondary(&self, number: u32) -> Result<()>;

    /// Starts comparing both copies block by block, while they are in use. What differs shows as out
    /// of sync in the status, and is not changed.
    async fn verify(&self, number: u32) -> Result<()>;

    /// Marks own data as outdated.
    async fn outdate(&self, number: u32) -> Result<()>;

    /// Eviction step 1: gives up the disk so that frozen writes fail instead of completing.
    async fn detach_forced(&self, number: u32) -> Result<()>;

    /// Eviction step 2: frozen I/O returns (with errors, once detached).
    async fn resume_io(&self, number: u32) -> Result<()>;

    /// Last eviction step: takes the resource down.
    async fn down(&self, helpers: HelpersGone) -> Result<()>;

    /// Waits until no fence-peer helper of the resource runs. The caller answers them first.
    async fn helpers_gone(&self, resource: &str, limit: Duration) -> Result<HelpersGone>;

    /// Gives a volume that is down fresh metadata: the other server's copy, if it comes, is taken
    /// whole. What the metadata said of the past is lost.
    async fn start_over(&self, spec: &ReplicaSpec) -> Result<()>;

    /// Declares the copy of a volume that is down, and was started over, to be the newest. A copy of
    /// the time before on the other server is unrelated from then on.
    async fn adopt(&self, order: AdoptOrder) -> Result<()>;

    /// All volumes the kernel knows, by number.
    async fn status(&self) -> Result<Vec<ReplicaStatus>>;

    /// Size of `/dev/drbdN` in bytes.
    async fn device_bytes(&self, number: u32) -> Result<u64>;

    /// Events from now on; begins with [`ReplicaEvent::Restarted`]. Ends when dropped.
    async fn events(&self) -> Result<mpsc::Receiver<ReplicaEvent>>;
}
