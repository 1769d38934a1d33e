// SPDX-License-Identifier: Apache-2.0
//! What the hardware says of itself, with the junk that vendors leave in it sorted out.

use provisioning_protocol::enrol::HardwareFacts;
use std::path::Path;

/// Texts that stand for "no serial number" on real boards.
const PLACEHOLDERS: [&str; 11] = [
    "to be filled by o.e.m.",
    "default string",
    "not specified",
    "not applicable",
    "system serial number",
    "serial number",
    "unknown",
    "none",
    "n/a",
    "0123456789",
    "123456789",
];
const TEXT_CHARS_MAX: usize = 64;

/// Facts and the serial number this server goes by.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// Board serial, or SMBIOS UUID, or `key-…` from the device key.
    pub serial: String,
    /// The rest.
    pub facts: HardwareFacts,
}

/// Reads the facts below `root` (`/` but in tests); `fingerprint` stands in where the board has
/// neither serial nor UUID.
#[must_use]
pub fn read(root: &Path, fingerprint: &str) -> Hardware {
    let dmi = |name: &str| text(&root.join("sys/class/dmi/id").join(name));
    let smbios_uuid = dmi("product_uuid");
    let serial = [dmi("product_serial"), dmi("board_serial"), smbios_uuid.clone()]
        .into_iter()
        .find(|text| is_real(text))
        .unwrap_or_else(|| format!("key-{}", fingerprint.split(' ').next().unwrap_or_default()));
    let facts = HardwareFacts {
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        smbios_uuid,
        macs: macs(&root.join("sys/class/net")),
        memory_mib: memory_mib(&root.join("proc/meminfo")),
        cpus: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
    };
    Hardware { serial, facts }
}

/// A file's first line: printable ASCII only, bounded, never failing.
fn text(path: &Path) -> String {
    let raw = std::fs::read(path).unwrap_or_default();
    let line = raw.split(|b| *b == b'\n').next().unwrap_or_default();
    let printable: String = line
        .iter()
        .filter(|b| b.is_ascii_graphic() || **b == b' ')
        .take(TEXT_CHARS_MAX)
        .map(|b| char::from(*b))
        .collect();
    printable.trim().to_owned()
}

fn is_real(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut distinct: Vec<char> = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    distinct.sort_unstable();
    distinct.dedup();
    text.len() >= 4 && distinct.len() > 1 && !PLACEHOLDERS.contains(&lower.as_str())
}

fn macs(net: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(net)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| text(&entry.path().join("address")))
        .filter(|mac| !mac.is_empty())
        .collect();
    found.sort();
    found.truncate(16);
    found
}

fn memory_mib(meminfo: &Path) -> u64 {
    let text = std::fs::read_to_string(meminfo).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}

/// The OS image's version: `IMAGE_VERSION` of os-release.
#[must_use]
pub fn image_version(root: &Path) -> String {
    let text = std::fs::read_to_string(root.join("etc/os-release"))
        .or_else(|_| std::fs::read_to_string(root.join("usr/lib/os-release")))
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("IMAGE_VERSION="))
        .map_or_else(|| "unknown".to_owned(), |v| v.trim_matches(['"', '\'']).to_owned())
}

/// Milliseconds since boot, sleep included.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(serial: &str, uuid: &str) -> Hardware {
        let dir = tempfile::tempdir().unwrap();
        let dmi = dir.path().join("sys/class/dmi/id");
        std::fs::create_dir_all(&dmi).unwrap();
        std::fs::write(dmi.join("product_serial"), serial).unwrap();
        std::fs::write(dmi.join("product_uuid"), uuid).unwrap();
        read(dir.path(), "0011aabb 22334455")
    }

    #[test]
    fn placeholder_serials_give_way_to_the_uuid_and_then_to_the_key() {
        let uuid = "4c4c4544-0031-3010-8051-b1c04f4d3133";
        assert_eq!(board("CN7016\n", uuid).serial, "CN7016");
        for junk in ["To Be Filled By O.E.M.\n", "", "00000000", "Default string", "None"] {
            assert_eq!(board(junk, uuid).serial, uuid, "{junk:?} was taken for a serial");
        }
        let blank = "00000000-0000-0000-0000-000000000000";
        assert_eq!(board("", blank).serial, "key-0011aabb");
    }

    #[test]
    fn hostile_dmi_text_is_cut_to_printable_ascii() {
        let serial = board(&format!("AB\u{0}C\u{1F600}{}\nX", "D".repeat(500)), "").serial;
        assert!(serial.starts_with("ABCD") && serial.len() == TEXT_CHARS_MAX, "{serial}");
    }
}
