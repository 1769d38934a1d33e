// SPDX-License-Identifier: Apache-2.0
//! The NoCloud disk: a tiny ISO 9660 volume labelled `CIDATA` with `meta-data`, `user-data` and
//! `network-config`, made in memory. cloud-init finds it by its label; small guests can too.

use super::Seed;
use std::collections::BTreeMap;

const SECTOR: usize = 2048;
/// Where the root directory lies: behind the system area, two descriptors and two path tables.
const ROOT_SECTOR: usize = 20;
const DATA_SECTOR: usize = 21;
/// Longest document, so that a directory record's size and the whole stay small.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// The whole disk.
///
/// # Errors
/// In words, if a document is too long.
pub(super) fn disk(seed: &Seed) -> Result<Vec<u8>, String> {
    let mut files = vec![("META-DATA", meta_data(seed)), ("USER-DATA", user_data(&seed.variables))];
    if let Some(text) = &seed.network_config {
        files.push(("NETWORK-CONFIG", text.clone()));
    }
    // Records stand in the order of their names.
    files.sort();
    if let Some((name, _)) = files.iter().find(|(_, text)| text.len() > FILE_BYTES_MAX) {
        return Err(format!("{name} is longer than {FILE_BYTES_MAX} bytes"));
    }
    Ok(iso(&files))
}

fn meta_data(seed: &Seed) -> String {
    format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&seed.instance_id),
        quoted(&seed.hostname)
    )
}

fn user_data(variables: &BTreeMap<String, String>) -> String {
    let mut text = "#cloud-config\nforecourt:\n".to_owned();
    if variables.is_empty() {
        text = "#cloud-config\nforecourt: {}\n".to_owned();
    }
    for (name, value) in variables {
        text.push_str(&format!("  {}: {}\n", quoted(name), quoted(value)));
    }
    text
}

/// A YAML double-quoted scalar, which is also what JSON calls a string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn iso(files: &[(&str, String)]) -> Vec<u8> {
    let mut next = DATA_SECTOR;
    let mut root = Vec::new();
    record(&mut root, &[0], ROOT_SECTOR, SECTOR, true);
    record(&mut root, &[1], ROOT_SECTOR, SECTOR, true);
    let mut data = Vec::new();
    for (name, text) in files {
        record(&mut root, format!("{name}.;1").as_bytes(), next, text.len(), false);
        data.extend_from_slice(text.as_bytes());
        pad(&mut data);
        next = DATA_SECTOR + data.len() / SECTOR;
    }
    pad(&mut root);
    let mut image = vec![0; 16 * SECTOR];
    image.extend(primary_descriptor(next));
    image.extend(terminator());
    image.extend(path_table(u32::to_le_bytes, u16::to_le_bytes));
    image.extend(path_table(u32::to_be_bytes, u16::to_be_bytes));
    image.extend(root);
    image.extend(data);
    image
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
}

fn number(value: usize) -> u32 {
    u32::try_from(value).expect("a seed disk is far smaller than 4 GiB")
}

/// A 32-bit number in both byte orders.
fn both32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// A 16-bit number in both byte orders.
fn both16(value: u16) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, b, a]
}

/// Appends a directory record.
fn record(to: &mut Vec<u8>, name: &[u8], sector: usize, bytes: usize, folder: bool) {
    let odd = usize::from(name.len().is_multiple_of(2));
    let length = 33 + name.len() + odd;
    to.push(u8::try_from(length).expect("names are short"));
    to.push(0);
    to.extend(both32(number(sector)));
    to.extend(both32(number(bytes)));
    // 2026-01-01, so that the same seed gives the same disk.
    to.extend([126, 1, 1, 0, 0, 0, 0]);
    to.push(if folder { 2 } else { 0 });
    to.extend([0, 0]);
    to.extend(both16(1));
    to.push(u8::try_from(name.len()).expect("names are short"));
    to.extend_from_slice(name);
    to.resize(to.len() + odd, 0);
}

fn primary_descriptor(sectors: usize) -> Vec<u8> {
    let mut d = Vec::with_capacity(SECTOR);
    d.push(1);
    d.extend_from_slice(b"CD001\x01\x00");
    d.extend([b' '; 32]);
    d.extend_from_slice(format!("{:<32}", "CIDATA").as_bytes());
    d.extend([0; 8]);
    d.extend(both32(number(sectors)));
    d.extend([0; 32]);
    d.extend(both16(1));
    d.extend(both16(1));
    d.extend(both16(2048));
    d.extend(both32(10));
    d.extend(18u32.to_le_bytes());
    d.extend([0; 4]);
    d.extend(19u32.to_be_bytes());
    d.extend([0; 4]);
    record(&mut d, &[0], ROOT_SECTOR, SECTOR, true);
    // Four identifiers of 128, three of 37.
    d.extend([b' '; 4 * 128 + 3 * 37]);
    for _ in 0..4 {
        d.extend_from_slice(b"0000000000000000\0");
    }
    d.extend([1, 0]);
    pad(&mut d);
    d
}

fn terminator() -> Vec<u8> {
    let mut d = b"\xffCD001\x01".to_vec();
    pad(&mut d);
    d
}

fn path_table(word: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2]) -> Vec<u8> {
    let mut table = vec![1, 0];
    table.extend(word(number(ROOT_SECTOR)));
    table.extend(half(1));
    table.extend([0, 0]);
    pad(&mut table);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        Seed {
            instance_id: "site-a-vm-1".into(),
            hostname: "parts-counter".into(),
            variables: BTreeMap::from([
                ("address".into(), "10.0.2.100/24".into()),
                ("motto".into(), "say \"hi\"\n: - #".into()),
            ]),
            network_config: Some("version: 2\n".into()),
        }
    }

    #[test]
    fn the_volume_has_the_label_and_whole_sectors() {
        let disk = disk(&seed()).expect("made");
        assert_eq!(disk.len() % SECTOR, 0);
        assert_eq!(&disk[16 * SECTOR + 1..16 * SECTOR + 6], b"CD001");
        assert_eq!(&disk[16 * SECTOR + 40..16 * SECTOR + 47], b"CIDATA ");
        assert_eq!(disk[16 * SECTOR + 881], 1, "file structure version");
        let told = u32::from_le_bytes(disk[16 * SECTOR + 80..][..4].try_into().expect("four"));
        assert_eq!(told as usize * SECTOR, disk.len());
    }

    #[test]
    fn values_cannot_break_out_of_their_line() {
        let text = user_data(&seed().variables);
        assert!(text.contains(r#"  "motto": "say \"hi\"\n: - #""#), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        assert_eq!(disk(&seed()), disk(&seed()));
    }

    #[test]
    fn an_endless_document_is_refused() {
        let mut seed = seed();
        seed.network_config = Some("x".repeat(FILE_BYTES_MAX + 1));
        assert!(disk(&seed).is_err());
    }

    #[test]
    fn other_readers_find_the_files() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("seed.iso");
        std::fs::write(&path, disk(&seed()).expect("made")).expect("written");
        let mut blkid = std::process::Command::new("blkid");
        let Ok(out) = blkid.args(["-p", "-o", "export"]).arg(&path).output() else {
            return eprintln!("no blkid: not tried");
        };
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("LABEL=CIDATA") && text.contains("TYPE=iso9660"), "{text}");
    }
}
