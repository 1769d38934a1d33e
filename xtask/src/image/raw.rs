// SPDX-License-Identifier: Apache-2.0
//! Reads the built disk: which partitions it has and how much of them is used.

use anyhow::{Context, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 512;
const ENTRY_BYTES: usize = 128;
/// Partition types, as they stand on the disk: root and root-verity of x86-64.
const ROOT: [u8; 16] =
    guid(0x4f68_bce3, 0xe8cd, 0x4db1, [0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09]);
const VERITY: [u8; 16] =
    guid(0x2c73_57ed, 0xebd2, 0x46d9, [0xae, 0xc1, 0x23, 0xd4, 0x37, 0xec, 0x2b, 0xf5]);
const EROFS_MAGIC: u32 = 0xe0f5_e1e2;

/// What the image measures.
#[derive(Debug)]
pub struct Parts {
    /// The hash over the root file system; the two partitions' ids are its halves.
    pub roothash: String,
    /// Bytes the root file system fills.
    pub root_bytes: u64,
    /// Bytes the hash tree fills.
    pub verity_bytes: u64,
}

struct Partition {
    start: u64,
    id: [u8; 16],
}

/// Reads the partition table and the two file headers of a disk image.
pub fn inspect(raw: &Path) -> anyhow::Result<Parts> {
    let disk = File::open(raw).with_context(|| format!("Opening {}", raw.display()))?;
    let root = find(&disk, &ROOT)?.context("The image has no root partition")?;
    let verity = find(&disk, &VERITY)?.context("The image has no verity partition")?;
    Ok(Parts {
        roothash: format!("{}{}", hex(root.id), hex(verity.id)),
        root_bytes: erofs_bytes(&disk, root.start)?,
        verity_bytes: verity_bytes(&disk, verity.start)?,
    })
}

fn find(disk: &File, kind: &[u8; 16]) -> anyhow::Result<Option<Partition>> {
    let header: [u8; 92] = read(disk, SECTOR)?;
    ensure!(header.starts_with(b"EFI PART"), "The image has no partition table");
    let table = u64_at(&header, 72) * SECTOR;
    for index in 0..u64::from(u32_at(&header, 80)).min(128) {
        let entry: [u8; ENTRY_BYTES] = read(disk, table + index * ENTRY_BYTES as u64)?;
        if entry.starts_with(kind) {
            let id = entry[16..32].try_into().expect("the slice has 16 bytes");
            return Ok(Some(Partition { start: u64_at(&entry, 32) * SECTOR, id }));
        }
    }
    Ok(None)
}

fn erofs_bytes(disk: &File, start: u64) -> anyhow::Result<u64> {
    let header: [u8; 64] = read(disk, start + 1024)?;
    ensure!(u32_at(&header, 0) == EROFS_MAGIC, "The root partition holds no erofs");
    Ok(u64::from(u32_at(&header, 36)) << header[12])
}

/// The hash tree's size follows from the number of blocks it covers.
fn verity_bytes(disk: &File, start: u64) -> anyhow::Result<u64> {
    let header: [u8; 96] = read(disk, start)?;
    ensure!(header.starts_with(b"verity\0\0"), "The verity partition holds no hash tree");
    let block = u64::from(u32_at(&header, 68));
    ensure!(block >= 512, "The hash tree's blocks are too small");
    let mut level = u64_at(&header, 72);
    let mut blocks = 1;
    while level > 1 {
        level = level.div_ceil(block / 32);
        blocks += level;
    }
    Ok(blocks * block)
}

fn read<const N: usize>(disk: &File, offset: u64) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    disk.read_exact_at(&mut bytes, offset)
        .with_context(|| format!("Reading the image at byte {offset}"))?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the slice has 4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the slice has 8 bytes"))
}

/// A partition id as hex digits in reading order; its first three fields are little-endian.
fn hex(id: [u8; 16]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    ORDER.iter().map(|&at| format!("{:02x}", id[at])).collect()
}

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_the_root_hash_read_back_from_partition_ids() {
        let id =
            guid(0x923f_eb6e, 0x980a, 0x26bd, [0x76, 0x0a, 0xde, 0x3b, 0x72, 0x45, 0x66, 0x9e]);
        assert_eq!(hex(id), "923feb6e980a26bd760ade3b7245669e");
    }

    #[test]
    fn a_file_without_partition_table_is_refused() {
        let file = std::env::temp_dir().join(format!("xtask-raw-{}", std::process::id()));
        std::fs::write(&file, vec![0; 4096]).expect("writing the file");
        let error = inspect(&file).expect_err("an empty disk was accepted");
        std::fs::remove_file(&file).expect("removing the file");
        assert!(error.to_string().contains("no partition table"), "{error:#}");
    }
}
