// SPDX-License-Identifier: Apache-2.0
//! Finding physical NICs and giving them their roles.

use super::{Nic, NicRoles};
use crate::error::{GlueError, Result};
use std::path::Path;

/// Most NICs looked at.
const NICS_MAX: usize = 64;

/// Physical Ethernet NICs below `/sys/class/net`, ordered by PCI address.
pub(super) fn roles(sys_class_net: &Path) -> Result<NicRoles> {
    let entries = std::fs::read_dir(sys_class_net)
        .map_err(|err| GlueError::file("list", sys_class_net, err))?;
    let mut nics: Vec<Nic> =
        entries.flatten().take(NICS_MAX * 16).filter_map(|entry| nic(&entry.path())).collect();
    nics.sort_by(|a, b| (&a.bus_address, &a.name).cmp(&(&b.bus_address, &b.name)));
    nics.truncate(NICS_MAX);
    let mut rest = nics.into_iter();
    Ok(NicRoles { lan: rest.next(), cable: rest.next(), spare: rest.collect() })
}

fn nic(path: &Path) -> Option<Nic> {
    let read = |file: &str| {
        std::fs::read_to_string(path.join(file)).ok().map(|text| text.trim().to_owned())
    };
    // Virtual interfaces have no device; 1 is Ethernet; a wireless NIC has a folder of its own.
    let device = path.join("device").canonicalize().ok()?;
    if read("type")? != "1" || path.join("wireless").exists() {
        return None;
    }
    let mac = read("address")?.to_ascii_lowercase();
    Some(Nic {
        name: path.file_name()?.to_str()?.to_owned(),
        mac,
        bus_address: bus_address(&device),
        carrier: read("carrier").as_deref() == Some("1"),
    })
}

/// The last PCI address on the way to the device, or the whole way (USB and the like sort behind).
fn bus_address(device: &Path) -> String {
    let mut parts = device.iter().filter_map(|part| part.to_str());
    let pci = parts.rfind(|part| is_pci(part));
    pci.map_or_else(|| format!("~{}", device.display()), str::to_owned)
}

/// `dddd:dd:dd.d` in hex.
fn is_pci(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 12
        && text.matches(':').count() == 2
        && bytes[bytes.len() - 2] == b'.'
        && bytes.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn make(root: &Path, name: &str, device: Option<&str>, kind: &str) {
        let dir = root.join("net").join(name);
        std::fs::create_dir_all(&dir).expect("dir");
        std::fs::write(dir.join("type"), kind).expect("type");
        std::fs::write(dir.join("address"), "52:54:00:AA:00:01\n").expect("address");
        std::fs::write(dir.join("carrier"), "1\n").expect("carrier");
        if let Some(device) = device {
            let device = root.join("devices").join(device);
            std::fs::create_dir_all(&device).expect("device");
            symlink(device, dir.join("device")).expect("link");
        }
    }

    #[test]
    fn roles_follow_the_bus_and_not_the_names() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path();
        make(root, "eth9", Some("pci0000:00/0000:00:03.0/virtio1"), "1\n");
        make(root, "eth0", Some("pci0000:00/0000:00:1c.0/0000:02:00.0"), "1\n");
        make(root, "usb0", Some("platform/usb1"), "1\n");
        make(root, "lo", None, "772\n");
        make(root, "br-lan", None, "1\n");
        make(root, "ib0", Some("pci0000:00/0000:00:02.0"), "32\n");
        let roles = roles(&root.join("net")).expect("roles");
        let lan = roles.lan.expect("a LAN NIC");
        assert_eq!((lan.name.as_str(), lan.mac.as_str()), ("eth9", "52:54:00:aa:00:01"));
        assert_eq!(roles.cable.map(|nic| nic.name).as_deref(), Some("eth0"));
        assert_eq!(roles.spare.len(), 1, "USB comes last");
    }

    #[test]
    fn a_server_without_nics_has_no_roles() {
        let dir = tempfile::tempdir().expect("temp dir");
        assert_eq!(roles(dir.path()).expect("roles"), NicRoles::default());
    }
}
