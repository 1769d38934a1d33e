// SPDX-License-Identifier: Apache-2.0
//! Bounds of what a template may ask for; the same for the vendor's file and the signed manifest.

use provisioning_protocol::template::{DiskRole, DiskSpec, ProbeSpec, VmSpec};
use std::collections::BTreeSet;

/// Most virtual CPUs: more than any server of a branch has.
pub const CPUS_MAX: u32 = 64;
/// Least memory, MiB: a Linux kernel with a small initramfs does not boot in less.
pub const MEMORY_MIB_MIN: u64 = 64;
/// Most memory, MiB: 1 TiB, the most such servers take.
pub const MEMORY_MIB_MAX: u64 = 1024 * 1024;
/// Most disks: a VM has one system disk and few data disks; DRBD minors are scarce.
pub const DISKS_MAX: usize = 8;
/// Smallest disk, bytes: LVM's thin chunk.
pub const DISK_BYTES_MIN: u64 = 64 * 1024;
/// Largest disk, bytes: 16 TiB, DRBD 8.4's limit for one device.
pub const DISK_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024 * 1024;
/// Disk sizes are multiples of this: the page size, and what block layers below agree on.
pub const DISK_BYTES_STEP: u64 = 4096;
/// Most NICs.
pub const NICS_MAX: u32 = 4;
/// Most variables.
pub const VARIABLES_MAX: usize = 64;
/// Longest variable name, bytes.
pub const VARIABLE_NAME_BYTES_MAX: usize = 64;
/// Longest variable value, bytes.
pub const VARIABLE_VALUE_BYTES_MAX: usize = 1024;
/// Longest path of an HTTP probe, bytes.
pub const PROBE_PATH_BYTES_MAX: usize = 256;
/// Highest release counter: JSON numbers above 2^53 are not safe everywhere.
pub const VERSION_MAX: u64 = (1 << 53) - 1;

/// A field out of bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfBounds {
    /// Path of the field, such as `disks[0].size`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl OutOfBounds {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

type Check = Result<(), OutOfBounds>;

/// Checks every bound of a VM.
///
/// # Errors
/// [`OutOfBounds`] for the first field found.
pub fn check_vm(vm: &VmSpec) -> Check {
    within("cpus", u64::from(vm.cpus), 1, u64::from(CPUS_MAX), "")?;
    within("memory", vm.memory_mib, MEMORY_MIB_MIN, MEMORY_MIB_MAX, " MiB")?;
    within("nics", u64::from(vm.nics), 0, u64::from(NICS_MAX), "")?;
    check_disks(&vm.disks)?;
    if let Some(probe) = &vm.probe {
        check_probe(probe, vm.nics)?;
    }
    if vm.variables.len() > VARIABLES_MAX {
        let reason = format!("{} variables, at most {VARIABLES_MAX}", vm.variables.len());
        return Err(OutOfBounds::new("variables", reason));
    }
    vm.variables.iter().try_for_each(|(name, value)| check_variable(name, value))
}

/// Checks a release counter.
///
/// # Errors
/// [`OutOfBounds`] if it is 0 or above [`VERSION_MAX`].
pub fn check_version(field: &str, version: u64) -> Check {
    within(field, version, 1, VERSION_MAX, "")
}

fn within(field: &str, got: u64, min: u64, max: u64, unit: &str) -> Check {
    if (min..=max).contains(&got) {
        return Ok(());
    }
    Err(OutOfBounds::new(field, format!("{got}{unit} is not within {min} to {max}{unit}")))
}

fn check_disks(disks: &[DiskSpec]) -> Check {
    if disks.is_empty() || disks.len() > DISKS_MAX {
        let reason = format!("{} disks, 1 to {DISKS_MAX} are allowed", disks.len());
        return Err(OutOfBounds::new("disks", reason));
    }
    let mut names = BTreeSet::new();
    for (at, disk) in disks.iter().enumerate() {
        if (disk.role == DiskRole::System) != (at == 0) {
            let reason = "the first disk, and only the first, has the role system";
            return Err(OutOfBounds::new(format!("disks[{at}].role"), reason));
        }
        if !names.insert(&disk.name) {
            let reason = format!("two disks are named {}", disk.name);
            return Err(OutOfBounds::new(format!("disks[{at}].name"), reason));
        }
        let field = format!("disks[{at}].size");
        within(&field, disk.size_bytes, DISK_BYTES_MIN, DISK_BYTES_MAX, " bytes")?;
        if !disk.size_bytes.is_multiple_of(DISK_BYTES_STEP) {
            let reason = format!("{} bytes is no multiple of 4 KiB", disk.size_bytes);
            return Err(OutOfBounds::new(field, reason));
        }
    }
    Ok(())
}

fn check_probe(probe: &ProbeSpec, nics: u32) -> Check {
    if nics == 0 {
        return Err(OutOfBounds::new("probe", "a VM without a NIC cannot be probed"));
    }
    let (ProbeSpec::Tcp { port } | ProbeSpec::Http { port, .. }) = probe;
    if *port == 0 {
        return Err(OutOfBounds::new("probe.port", "0 is no port"));
    }
    let ProbeSpec::Http { path, .. } = probe else { return Ok(()) };
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if path.starts_with('/') && plain && path.len() <= PROBE_PATH_BYTES_MAX {
        return Ok(());
    }
    let reason = format!(
        "must be an absolute path of at most {PROBE_PATH_BYTES_MAX} printable ASCII characters"
    );
    Err(OutOfBounds::new("probe.path", reason))
}

fn check_variable(name: &str, value: &str) -> Check {
    let field = || format!("variables.{}", name.chars().take(40).collect::<String>());
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
    let rest = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !starts || !rest || name.len() > VARIABLE_NAME_BYTES_MAX {
        return Err(OutOfBounds::new(field(), "names are A-Z, 0-9 and _, starting with a letter"));
    }
    if value.len() > VARIABLE_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        let reason = format!(
            "values have at most {VARIABLE_VALUE_BYTES_MAX} bytes and no control characters"
        );
        return Err(OutOfBounds::new(field(), reason));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use provisioning_protocol::ids::DiskName;
    use provisioning_protocol::template::{CpuModel, GuestFirmware};

    /// A VM within all bounds.
    pub(crate) fn sound_vm(system_bytes: u64) -> VmSpec {
        let disk = |name: &str, role, size_bytes| DiskSpec {
            name: DiskName::new(name).expect("a name"),
            role,
            size_bytes,
        };
        VmSpec {
            firmware: GuestFirmware::Bios,
            cpu: CpuModel::default(),
            cpus: 1,
            memory_mib: 128,
            disks: vec![
                disk("system", DiskRole::System, system_bytes),
                disk("data", DiskRole::Data, 1 << 20),
            ],
            nics: 1,
            probe: Some(ProbeSpec::Http { port: 80, path: "/health".into() }),
            variables: [("ADDRESS".to_owned(), String::new())].into(),
        }
    }

    #[test]
    fn absurd_values_are_refused_and_named() {
        type Spoil = fn(&mut VmSpec);
        let cases: [(&str, Spoil); 13] = [
            ("cpus", |vm| vm.cpus = 0),
            ("cpus", |vm| vm.cpus = 65),
            ("memory", |vm| vm.memory_mib = 63),
            ("memory", |vm| vm.memory_mib = u64::MAX),
            ("nics", |vm| vm.nics = 5),
            ("disks", |vm| vm.disks.clear()),
            ("disks[0].role", |vm| vm.disks.reverse()),
            ("disks[1].name", |vm| vm.disks[1].name = vm.disks[0].name.clone()),
            ("disks[1].size", |vm| vm.disks[1].size_bytes = u64::MAX - 4095),
            ("disks[1].size", |vm| vm.disks[1].size_bytes += 1),
            ("probe", |vm| vm.nics = 0),
            ("probe.path", |vm| {
                vm.probe = Some(ProbeSpec::Http { port: 80, path: "/a b".into() });
            }),
            ("variables.A B", |vm| {
                vm.variables.insert("A B".into(), String::new());
            }),
        ];
        assert_eq!(check_vm(&sound_vm(1 << 20)), Ok(()));
        for (field, spoil) in cases {
            let mut vm = sound_vm(1 << 20);
            spoil(&mut vm);
            assert_eq!(check_vm(&vm).map_err(|err| err.field), Err(field.to_owned()));
        }
    }
}
