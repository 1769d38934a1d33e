// SPDX-License-Identifier: Apache-2.0
//! VMs: QEMU as transient systemd services, so that an agent crash or update never stops one.

mod disks;
mod end;
mod fake;
mod halt;
mod live;
mod probe;
mod qemu;
mod qmp;
mod seed;
mod systemd;
mod taps;
mod unit;

pub use fake::FakeVms;
pub use qemu::mac as vm_mac;
pub use qmp::Qmp;
#[doc(hidden)]
pub use qmp::read_any as read_qmp;
pub use systemd::SystemdVms;

use crate::error::Result;
use async_trait::async_trait;
use provisioning_protocol::ids::{SiteName, VmName};
use provisioning_protocol::template::{CpuModel, GuestFirmware};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accel {
    /// Hardware virtualization, proved by a marker guest.
    Kvm,
    /// Emulation.
    Tcg,
}

/// A disk of a VM to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDisk {
    /// Block device, normally `/dev/drbdN`.
    pub path: PathBuf,
    /// Serial number the guest sees: the disk's name, cut to 20 bytes.
    pub serial: String,
}

/// What the guest gets to know about its site, on a NoCloud disk labelled `CIDATA`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Seed {
    /// `instance-id` of the meta-data: changes when the VM is made anew.
    pub instance_id: String,
    /// `local-hostname` of the meta-data.
    pub hostname: String,
    /// Per-site variables: `forecourt:` map of the user-data, a `#cloud-config` document.
    pub variables: BTreeMap<String, String>,
    /// `network-config` document (version 2 YAML), if the guest shall not use DHCP.
    pub network_config: Option<String>,
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed").field("instance_id", &self.instance_id).finish_non_exhaustive()
    }
}

/// A VM to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmLaunch {
    /// Name within the site.
    pub name: VmName,
    /// The site, for MAC addresses.
    pub site: SiteName,
    /// Index within the site: taps are `tap-vmN`, MACs are derived.
    pub index: u32,
    /// Firmware.
    pub firmware: GuestFirmware,
    /// Processor it sees under KVM.
    pub cpu: CpuModel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disks in order; the first is booted.
    pub disks: Vec<VmDisk>,
    /// NICs on the LAN bridge.
    pub nics: u32,
    /// What the guest gets to know.
    pub seed: Seed,
    /// How to run it, as probed.
    pub accel: Accel,
}

/// A VM found running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningVm {
    /// Its name.
    pub name: VmName,
    /// QEMU's process id.
    pub pid: u32,
}

/// What QEMU says of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmState {
    /// No QEMU.
    Absent,
    /// Its vCPUs run.
    Running,
    /// Loaded by [`Vms::prepare`] or [`Vms::receive`], never started.
    Prepared,
    /// Its vCPUs do not run; QEMU's word for why.
    Stopped(String),
    /// QEMU lives, but did not answer in time.
    Silent,
}

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// It was not running.
    WasAbsent,
    /// The guest shut down.
    Clean,
    /// It did not in time, and was killed.
    Killed,
}

/// Unit name of a VM.
#[must_use]
pub fn unit_name(vm: &VmName) -> String {
    format!("forecourt-vm-{vm}.service")
}

/// Tap of a VM's NIC: `tap-vmN`, further ones `tap-vmN-K`.
#[must_use]
pub fn tap_name(index: u32, nic: u32) -> String {
    if nic == 0 { format!("tap-vm{index}") } else { format!("tap-vm{index}-{nic}") }
}

/// The server's VMs.
#[async_trait]
pub trait Vms: Send + Sync {
    /// Proves KVM by booting a marker guest with a time limit; TCG if it does not come.
    async fn probe_accel(&self) -> Result<Accel>;

    /// Loads QEMU with its vCPUs stopped and without the volumes, which may still be secondary, so
    /// that a failover does not wait for it. Refused if the VM runs here.
    async fn prepare(&self, launch: &VmLaunch) -> Result<()>;

    /// Loads QEMU in the same way, but waiting for the VM's memory under a ticket that nothing had
    /// before. Replaces what was prepared. Refused if the VM runs here.
    async fn receive(&self, launch: &VmLaunch, ticket: u64) -> Result<()>;

    /// Gives the QEMU that waits under this ticket the memory that comes by `wire`; returns when the
    /// other end hangs up. Whether it was whole shows at the start.
    async fn fill(&self, vm: &VmName, ticket: u64, wire: TcpStream) -> Result<()>;

    /// Sends the memory of a running VM away by `wire`. `true`: the other end has all of it, and the
    /// QEMU here was killed. In all other cases, as when `off` becomes true, the VM goes on here, or,
    /// if it cannot, was stopped as a process.
    async fn hand(&self, vm: &VmName, wire: TcpStream, off: watch::Receiver<bool>) -> Result<bool>;

    /// Ends what [`Vms::prepare`] or [`Vms::receive`] loaded. Nothing if the VM was started since, or never prepared.
    async fn discard(&self, vm: &VmName) -> Result<()>;

    /// Loads QEMU unless it was prepared for the same launch, gives it its volumes and lets its
    /// vCPUs run. With a ticket the VM goes on with the memory received under it, if that is here
    /// and whole; otherwise it boots. Refused if the VM runs here.
    async fn start(&self, launch: &VmLaunch, resume: Option<u64>) -> Result<RunningVm>;

    /// All VMs with a QEMU here, also those started or prepared by an earlier agent.
    async fn running(&self) -> Result<Vec<RunningVm>>;

    /// Asks the guest to shut down, again and again for up to `limit`, then kills.
    async fn stop(&self, vm: &VmName, limit: Duration) -> Result<StopOutcome>;

    /// Kills QEMU and waits until it is gone. Frozen disks must have been released first.
    async fn kill(&self, vm: &VmName) -> Result<()>;

    /// Puts away what a VM that was handed over has left: its taps. Nothing while it has a QEMU here.
    async fn tidy(&self, vm: &VmName) -> Result<()>;

    /// Stops the vCPUs and returns once they stand still. A QEMU that does not answer, as with a
    /// frozen disk, is stopped as a process.
    async fn pause(&self, vm: &VmName) -> Result<()>;

    /// Lets the vCPUs run again.
    async fn resume(&self, vm: &VmName) -> Result<()>;

    /// Takes all taps of the VM down (cut off the LAN) or up again.
    async fn set_link(&self, vm: &VmName, up: bool) -> Result<()>;

    /// What QEMU says.
    async fn state(&self, vm: &VmName) -> Result<VmState>;

    /// The last bytes (at most 64 KiB) of the guest's serial console.
    async fn console_tail(&self, vm: &VmName) -> Result<String>;
}
