// SPDX-License-Identifier: Apache-2.0
//! Whether this server could carry the whole site: when its peer dies it must. People are told
//! before that day if it could not.

use super::registry::Registry;
use crate::status::{Concern, Hub};
use provisioning_protocol::template::VmSpec;
use std::sync::Arc;
use std::time::Duration;

/// What the system and the agent need for themselves, MiB: 192 measured (`cargo xtask bench image`),
/// and room for caches.
const HOST_MIB: u64 = 512;
/// What a QEMU needs beside its guest's memory, MiB.
const QEMU_MIB: u64 = 64;
const PERIOD: Duration = Duration::from_secs(30);
const MIB: u64 = 1024 * 1024;

/// What a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Logical processors.
    pub cpus: u32,
}

impl Capacity {
    /// This server's.
    #[must_use]
    pub fn here() -> Self {
        let info = rustix::system::sysinfo();
        let bytes = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let cpus = std::thread::available_parallelism()
            .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX));
        Self { memory_mib: bytes / MIB, cpus }
    }

    /// What is missing to carry all of these at once, in words.
    #[must_use]
    pub fn shortage(&self, vms: &[VmSpec]) -> Option<String> {
        let guests = vms.iter().map(|vm| vm.memory_mib.saturating_add(QEMU_MIB));
        let needed = guests.fold(HOST_MIB, u64::saturating_add);
        if !vms.is_empty() && needed > self.memory_mib {
            return Some(format!(
                "This server cannot carry the whole site: its {} VMs and the system need {needed} MiB \
                 of memory, it has {}. If the other server dies, VMs will not start here. Put in \
                 memory, or give the site a smaller blueprint",
                vms.len(),
                self.memory_mib
            ));
        }
        let widest = vms.iter().map(|vm| vm.cpus).max().filter(|cpus| *cpus > self.cpus)?;
        Some(format!(
            "This server has {} processors and a VM of this site wants {widest}: it will be slow here",
            self.cpus
        ))
    }
}

/// Looks at what the site wants from time to time, for ever.
pub async fn run(registry: Arc<Registry>, hub: Arc<Hub>) {
    let here = Capacity::here();
    loop {
        let vms: Vec<VmSpec> = registry.all().into_iter().map(|entry| entry.vm).collect();
        hub.problem(Concern::Vm, "capacity", here.shortage(&vms));
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioning_protocol::template::{CpuModel, GuestFirmware};

    fn vm(memory_mib: u64, cpus: u32) -> VmSpec {
        VmSpec {
            firmware: GuestFirmware::Bios,
            cpu: CpuModel::default(),
            cpus,
            memory_mib,
            disks: Vec::new(),
            nics: 1,
            probe: None,
            variables: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_server_that_could_not_carry_every_vm_says_so_before_it_must() {
        let server = Capacity { memory_mib: 4096, cpus: 4 };
        assert_eq!(server.shortage(&[]), None);
        assert_eq!(server.shortage(&[vm(1760, 2), vm(1696, 4)]), None, "exactly enough");
        let words = server.shortage(&[vm(1760, 2), vm(1697, 2)]).expect("one MiB too much");
        assert!(words.contains("4097 MiB") && words.contains("it has 4096"), "{words}");
        let words = server.shortage(&[vm(128, 5)]).expect("too many processors");
        assert!(words.contains("4 processors") && words.contains("wants 5"), "{words}");
        assert!(server.shortage(&[vm(u64::MAX, 1), vm(u64::MAX, 1)]).is_some(), "no overflow");
    }

    #[test]
    fn this_machine_has_memory_and_processors() {
        let here = Capacity::here();
        assert!(here.memory_mib > 100 && here.cpus > 0, "{here:?}");
    }
}
