// SPDX-License-Identifier: Apache-2.0
//! What the machine says of itself: serial number, NICs, disks, VM services. Read from `/sys`,
//! `/proc` and the kernel's interface list, never from a service.

use crate::source::read_small;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Most NICs, disks and VM services that are listed.
const LIST_MAX: usize = 32;
/// Serial numbers that boards carry when nobody set one.
const PLACEHOLDERS: [&str; 6] =
    ["", "none", "not specified", "to be filled by o.e.m.", "default string", "0"];

/// The machine, as read. Text is not yet safe to show: [`crate::facts`] sees to that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Milliseconds since boot.
    pub boot_ms: u64,
    /// Milliseconds since 1970, by the machine's own clock.
    pub wall_ms: u64,
    /// Serial number, or the SMBIOS UUID where the serial is a placeholder.
    pub serial: String,
    /// Vendor and product.
    pub product: String,
    /// Physical NICs by PCI address: the first is the LAN, the second the cable.
    pub nics: Vec<Nic>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Services that run a VM at this moment.
    pub vm_units: Vec<String>,
    /// Whether the agent's service has a process, where that can be told.
    pub agent_process: Option<bool>,
}

/// A physical network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// PCI address.
    pub bus: String,
    /// Hardware address.
    pub mac: String,
    /// Whether a cable with a live other end is plugged in.
    pub link: bool,
    /// Speed in Mbit/s, where the card tells.
    pub speed: Option<u32>,
    /// Addresses of the card, or of the bridge it belongs to.
    pub addresses: Vec<String>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Disk {
    /// Kernel name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Model, where the disk tells.
    pub model: String,
    /// Whether it is removable.
    pub removable: bool,
}

/// Reads the machine; what cannot be read is left empty.
#[must_use]
pub fn read() -> Machine {
    let sys = Path::new("/sys");
    let dmi = sys.join("class/dmi/id");
    Machine {
        boot_ms: boot_ms(),
        wall_ms: wall_ms(),
        serial: serial(&dmi),
        product: [line(&dmi.join("sys_vendor")), line(&dmi.join("product_name"))].join(" "),
        nics: nics(&sys.join("class/net"), &addresses()),
        disks: disks(&sys.join("block")),
        vm_units: vm_units(&sys.join("fs/cgroup")),
        agent_process: process_in(&sys.join("fs/cgroup/system.slice/forecourt-agent.service")),
    }
}

fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// First line of a small file, or nothing.
fn line(path: &Path) -> String {
    let text = read_small(path, 4096).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("").trim().to_owned()
}

fn serial(dmi: &Path) -> String {
    let serial = line(&dmi.join("product_serial"));
    if PLACEHOLDERS.contains(&serial.to_lowercase().as_str()) {
        return line(&dmi.join("product_uuid"));
    }
    serial
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(4096);
    let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Addresses by interface name, loopback and link-local IPv6 left out.
fn addresses() -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in getifaddrs().into_iter().flatten() {
        let Some(storage) = entry.address else { continue };
        let list = map.entry(entry.interface_name).or_default();
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) || list.len() >= 8 {
            continue;
        }
        if let Some(v4) = storage.as_sockaddr_in() {
            list.insert(0, v4.ip().to_string());
        } else if let Some(v6) = storage.as_sockaddr_in6()
            && v6.ip().segments()[0] & 0xffc0 != 0xfe80
        {
            list.push(v6.ip().to_string());
        }
    }
    map
}

fn nics(dir: &Path, addresses: &BTreeMap<String, Vec<String>>) -> Vec<Nic> {
    let physical = names(dir).into_iter().filter(|name| dir.join(name).join("device").exists());
    let mut nics: Vec<Nic> = physical
        .take(LIST_MAX)
        .map(|name| {
            let path = dir.join(&name);
            let owner = link_name(&path.join("master")).unwrap_or_else(|| name.clone());
            Nic {
                bus: bus_address(&path),
                mac: line(&path.join("address")),
                link: line(&path.join("carrier")) == "1",
                speed: line(&path.join("speed")).parse().ok(),
                addresses: addresses.get(&owner).cloned().unwrap_or_default(),
                name,
            }
        })
        .collect();
    nics.sort_by(|a, b| a.bus.cmp(&b.bus));
    nics
}

/// The PCI address of a NIC; a virtio NIC's device is a child of the PCI device.
fn bus_address(nic: &Path) -> String {
    let Ok(device) = fs::canonicalize(nic.join("device")) else { return String::new() };
    let is_pci = |part: &&str| part.len() == 12 && part.as_bytes()[4] == b':';
    let text = device.to_string_lossy().into_owned();
    text.rsplit('/').find(is_pci).map(str::to_owned).unwrap_or_default()
}

fn disks(dir: &Path) -> Vec<Disk> {
    let real = names(dir).into_iter().filter(|name| dir.join(name).join("device").exists());
    real.filter(|name| !name.starts_with("sr") && !name.starts_with("fd"))
        .take(LIST_MAX)
        .map(|name| {
            let path = dir.join(&name);
            Disk {
                bytes: line(&path.join("size")).parse::<u64>().unwrap_or(0).saturating_mul(512),
                model: line(&path.join("device/model")),
                removable: line(&path.join("removable")) == "1",
                name,
            }
        })
        .collect()
}

/// VM services that have a process, wherever in the first two levels of slices they are.
fn vm_units(cgroup: &Path) -> Vec<String> {
    let slices = names(cgroup).into_iter().filter(|name| name.ends_with(".slice"));
    let mut found: Vec<String> = slices
        .flat_map(|slice| {
            let slice = cgroup.join(slice);
            names(&slice).into_iter().filter_map(move |unit| {
                let vm = unit.strip_prefix("forecourt-vm-")?.strip_suffix(".service")?.to_owned();
                (process_in(&slice.join(&unit)) == Some(true)).then_some(vm)
            })
        })
        .take(LIST_MAX)
        .collect();
    found.sort();
    found
}

fn process_in(service: &Path) -> Option<bool> {
    let events = read_small(&service.join("cgroup.events"), 4096).ok();
    match events {
        Some(text) => Some(String::from_utf8_lossy(&text).lines().any(|l| l == "populated 1")),
        // The slice is there and the service is not: nothing runs.
        None => service.parent().filter(|slice| slice.is_dir()).map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn nics_are_ordered_by_pci_address_not_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("class/net");
        for (name, pci) in [("eth0", "0000:00:09.0"), ("eth1", "0000:00:02.0")] {
            let device = dir.path().join("devices/pci0000:00").join(pci).join("virtio7");
            fs::create_dir_all(&device).unwrap();
            put(&net.join(name).join("carrier"), "1\n");
            put(&net.join(name).join("speed"), "-1\n");
            symlink(&device, net.join(name).join("device")).unwrap();
        }
        put(&net.join("lo/address"), "00:00:00:00:00:00\n");
        symlink("../br-lan", net.join("eth1/master")).unwrap();
        let addresses = BTreeMap::from([("br-lan".to_owned(), vec!["10.0.2.15".to_owned()])]);
        let nics = nics(&net, &addresses);
        let seen: Vec<_> = nics.iter().map(|n| (n.name.as_str(), n.bus.as_str())).collect();
        assert_eq!(seen, [("eth1", "0000:00:02.0"), ("eth0", "0000:00:09.0")]);
        assert_eq!(nics[0].addresses, ["10.0.2.15"]);
        assert!(nics[0].link && nics[0].speed.is_none());
    }

    #[test]
    fn a_placeholder_serial_gives_way_to_the_uuid() {
        let dir = tempfile::tempdir().unwrap();
        put(&dir.path().join("product_serial"), "To Be Filled By O.E.M.\n");
        put(&dir.path().join("product_uuid"), "1b4e28ba\n");
        assert_eq!(serial(dir.path()), "1b4e28ba");
        put(&dir.path().join("product_serial"), "CZ1234\n");
        assert_eq!(serial(dir.path()), "CZ1234");
    }

    #[test]
    fn only_vm_services_with_a_process_count() {
        let dir = tempfile::tempdir().unwrap();
        let slice = dir.path().join("system.slice");
        put(&slice.join("forecourt-vm-till.service/cgroup.events"), "populated 1\nfrozen 0\n");
        put(&slice.join("forecourt-vm-dead.service/cgroup.events"), "populated 0\nfrozen 0\n");
        put(&slice.join("ssh.service/cgroup.events"), "populated 1\n");
        assert_eq!(vm_units(dir.path()), ["till"]);
        assert_eq!(process_in(&slice.join("forecourt-agent.service")), Some(false));
        assert_eq!(process_in(&dir.path().join("no.slice/forecourt-agent.service")), None);
    }

    #[test]
    fn a_machine_without_any_of_it_is_read_as_empty() {
        let nowhere = Path::new("/nonexistent");
        assert!(nics(nowhere, &BTreeMap::new()).is_empty() && disks(nowhere).is_empty());
        assert!(read().boot_ms > 0);
    }
}
