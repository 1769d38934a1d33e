// SPDX-License-Identifier: Apache-2.0
//! A VM's transient unit: its own user, nothing but its devices, no way to more.

use super::{Accel, VmLaunch, taps};
use crate::error::{GlueError, Result};
use zbus::{OwnedVariant, Variant};

/// Name of the seed among the unit's credentials.
pub(super) const SEED: &str = "seed";
/// Memory QEMU may use beside the guest's.
const OVERHEAD_MIB: u64 = 320;
/// Emulation keeps translated code.
const OVERHEAD_TCG_MIB: u64 = 448;

/// A property list for `StartTransientUnit`.
pub(super) type Properties = Vec<(String, OwnedVariant)>;

/// What the unit may use beside what every unit gets.
pub(super) struct Grant<'a> {
    pub command: Vec<String>,
    pub seed: Vec<u8>,
    /// Below `/run`, made for the unit and removed with it.
    pub runtime_dir: &'a str,
    /// Below `/var/lib`, kept.
    pub state_dir: &'a str,
    pub vhost: bool,
}

/// The unit's properties.
pub(super) fn properties(launch: &VmLaunch, grant: Grant<'_>) -> Result<Properties> {
    let mut list = List(Vec::new());
    let program = grant.command.first().cloned().unwrap_or_default();
    list.add("Description", format!("VM {}", launch.name))?;
    list.add("Type", "exec")?;
    list.add("ExecStart", vec![(program, grant.command, false)])?;
    list.add("CollectMode", "inactive-or-failed")?;
    list.add("SetCredential", vec![(SEED.to_owned(), grant.seed)])?;
    list.add("RuntimeDirectory", vec![grant.runtime_dir.to_owned()])?;
    list.add("StateDirectory", vec![grant.state_dir.to_owned()])?;
    list.add("UMask", 0o077_u32)?;
    identity(&mut list, launch)?;
    devices(&mut list, launch, grant.vhost)?;
    confinement(&mut list)?;
    limits(&mut list, launch)?;
    Ok(list.0)
}

struct List(Properties);

impl List {
    fn add<'a>(&mut self, name: &str, value: impl Into<Variant<'a>>) -> Result<()> {
        let value = OwnedVariant::try_from(value.into()).map_err(|err| GlueError::Bus {
            operation: format!("describe {name}"),
            detail: err.to_string(),
        })?;
        self.0.push((name.to_owned(), value));
        Ok(())
    }
}

fn identity(list: &mut List, launch: &VmLaunch) -> Result<()> {
    list.add("DynamicUser", true)?;
    list.add("User", format!("forecourt-vm{}", launch.index))?;
    // `disk` opens the volumes by their mode; the device policy below leaves only its own.
    list.add("SupplementaryGroups", vec![taps::GROUP.to_owned(), "disk".to_owned()])?;
    list.add("NoNewPrivileges", true)?;
    list.add("CapabilityBoundingSet", 0_u64)?;
    list.add("AmbientCapabilities", 0_u64)
}

fn devices(list: &mut List, launch: &VmLaunch, vhost: bool) -> Result<()> {
    let mut allowed = vec![("/dev/net/tun".to_owned(), "rw".to_owned())];
    if launch.accel == Accel::Kvm {
        allowed.push(("/dev/kvm".to_owned(), "rw".to_owned()));
    }
    if vhost {
        allowed.push(("/dev/vhost-net".to_owned(), "rw".to_owned()));
    }
    for disk in &launch.disks {
        allowed.push((disk.path.display().to_string(), "rw".to_owned()));
    }
    list.add("DevicePolicy", "closed")?;
    list.add("DeviceAllow", allowed)
}

fn confinement(list: &mut List) -> Result<()> {
    for flag in [
        "PrivateTmp",
        "PrivateIPC",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectHostname",
        "LockPersonality",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ] {
        list.add(flag, true)?;
    }
    list.add("ProtectSystem", "strict")?;
    list.add("ProtectHome", "yes")?;
    list.add("ProtectProc", "invisible")?;
    // No namespaces at all, no sockets but local ones.
    list.add("RestrictNamespaces", 0_u64)?;
    list.add("RestrictAddressFamilies", (true, vec!["AF_UNIX".to_owned()]))?;
    list.add("SystemCallArchitectures", vec!["native".to_owned()])
}

fn limits(list: &mut List, launch: &VmLaunch) -> Result<()> {
    let overhead = match launch.accel {
        Accel::Kvm => OVERHEAD_MIB,
        Accel::Tcg => OVERHEAD_MIB + OVERHEAD_TCG_MIB,
    };
    list.add("MemoryMax", launch.memory_mib.saturating_add(overhead).saturating_mul(1 << 20))?;
    list.add("TasksMax", 512_u64)?;
    list.add("LimitCORE", 0_u64)?;
    list.add("OOMScoreAdjust", 100_i32)?;
    // SIGTERM makes QEMU flush and leave at once.
    list.add("KillMode", "mixed")?;
    list.add("TimeoutStopUSec", 20_000_000_u64)
}
