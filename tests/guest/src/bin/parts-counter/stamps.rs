// SPDX-License-Identifier: Apache-2.0
//! Blocks at fixed places on each disk, written over and over past every cache: what a disk has acknowledged
//! it must hold, and a block is never half an old one and half a new one.
//!
//! Entry after entry, block `sequence % BLOCKS` of each disk is written and flushed. A block ends with its own
//! CRC-32C, as ext4's extent blocks do: all of them have the same CRC-32C.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Blocks on each disk.
pub const BLOCKS: u64 = 32;
const BLOCK_BYTES: usize = 4096;
const BLOCK: u64 = 4096;
const MAGIC: [u8; 8] = *b"stamp-v1";
const SUM_AT: usize = BLOCK_BYTES - 4;
const O_DIRECT: i32 = 0o40_000;
const EINVAL: i32 = 22;

/// Memory as O_DIRECT wants it.
#[repr(align(4096))]
struct Buffer([u8; BLOCK_BYTES]);

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// Nothing yet.
    Blank,
    /// The whole stamp of this number.
    Whole(u64),
    /// Neither.
    Torn,
}

/// The blocks of one disk.
struct Area {
    name: &'static str,
    file: File,
    start: u64,
}

/// The blocks of all disks.
#[derive(Default)]
pub struct Stamps {
    areas: Vec<Area>,
    last: u64,
}

impl Stamps {
    /// Adds a file of a file system, which is made if it is not there.
    pub fn add_file(&mut self, name: &'static str, path: &Path) -> io::Result<()> {
        let file = open(path, true)?;
        for block in file.metadata()?.len() / BLOCK..BLOCKS {
            file.write_all_at(&Buffer([0; BLOCK_BYTES]).0, block * BLOCK)?;
        }
        file.sync_all()?;
        self.add(Area { name, file, start: 0 })
    }

    /// Adds the end of a device, if nothing but stamps is there.
    pub fn add_device(&mut self, name: &'static str, path: &Path) -> io::Result<()> {
        let mut file = open(path, false)?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK;
        let Some(start) = blocks.checked_sub(BLOCKS).map(|first| first * BLOCK) else {
            return Err(io::Error::other(format!("{} is too small", path.display())));
        };
        self.add(Area { name, file, start })
    }

    fn add(&mut self, area: Area) -> io::Result<()> {
        for block in 0..BLOCKS {
            let (stamp, ours) = area.read(block)?;
            if !ours {
                let what = format!("block {block} for stamps on disk {} is not ours", area.name);
                return Err(io::Error::other(what));
            }
            if let Stamp::Whole(sequence) = stamp {
                self.last = self.last.max(sequence);
            }
        }
        self.areas.push(area);
        Ok(())
    }

    /// Stamps the next block of each disk; returns its number once all disks have it.
    pub fn write(&mut self) -> io::Result<u64> {
        let sequence = self.last + 1;
        for area in &self.areas {
            let block = sequence % BLOCKS;
            area.file.write_all_at(&sealed(block, sequence).0, area.start + block * BLOCK)?;
            area.file.sync_data()?;
        }
        self.last = sequence;
        Ok(sequence)
    }

    /// All blocks: disk, number, what it holds.
    pub fn read(&self) -> io::Result<Vec<(&'static str, u64, Stamp)>> {
        let mut all = Vec::new();
        for area in &self.areas {
            for block in 0..BLOCKS {
                all.push((area.name, block, area.read(block)?.0));
            }
        }
        Ok(all)
    }
}

impl Area {
    /// What a block holds, and whether it is a stamp, torn or not, or may become one.
    fn read(&self, block: u64) -> io::Result<(Stamp, bool)> {
        let mut buffer = Buffer([0; BLOCK_BYTES]);
        self.file.read_exact_at(&mut buffer.0, self.start + block * BLOCK)?;
        Ok((judged(block, &buffer.0), buffer.0.starts_with(&MAGIC) || buffer.0[..8] == [0; 8]))
    }
}

/// Past the page cache, where the file system can.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    let opened = match options.clone().custom_flags(O_DIRECT).open(path) {
        Err(err) if err.raw_os_error() == Some(EINVAL) => options.open(path),
        opened => opened,
    };
    opened.map_err(|err| io::Error::other(format!("{}: {err}", path.display())))
}

fn judged(block: u64, bytes: &[u8; BLOCK_BYTES]) -> Stamp {
    if bytes.iter().all(|byte| *byte == 0) {
        return Stamp::Blank;
    }
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[16..24]);
    let sequence = u64::from_le_bytes(number);
    // Every byte follows from the two numbers.
    if sealed(block, sequence).0 == *bytes { Stamp::Whole(sequence) } else { Stamp::Torn }
}

/// A block's content: magic, block, sequence, filler, CRC-32C.
fn sealed(block: u64, sequence: u64) -> Buffer {
    let mut buffer = Buffer([0; BLOCK_BYTES]);
    let bytes = &mut buffer.0;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&block.to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    let mut filler = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    for word in bytes[24..SUM_AT].chunks_mut(8) {
        filler =
            filler.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = word.len();
        word.copy_from_slice(&filler.to_le_bytes()[..length]);
    }
    let sum = crc32c(&bytes[..SUM_AT]);
    bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
    buffer
}

/// CRC-32C (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("stamps-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn sequences(stamps: &Stamps) -> Vec<Stamp> {
        stamps.read().expect("read").into_iter().map(|(_, _, stamp)| stamp).collect()
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn stamps_go_round_and_their_numbers_go_on_after_a_start() {
        let path = temp("round");
        let mut stamps = Stamps::default();
        stamps.add_file("data", &path).expect("made");
        assert_eq!(sequences(&stamps), [Stamp::Blank; 32]);
        for sequence in 1..=BLOCKS + 2 {
            assert_eq!(stamps.write().expect("written"), sequence);
        }
        let mut again = Stamps::default();
        again.add_device("system", &path).expect("there");
        let found = sequences(&again);
        assert_eq!(found[0], Stamp::Whole(32));
        assert_eq!(found[2], Stamp::Whole(34));
        assert_eq!(found[3], Stamp::Whole(3));
        assert_eq!(again.write().expect("written"), BLOCKS + 3);
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn half_a_stamp_is_torn_and_what_is_not_ours_is_left_alone() {
        let path = temp("torn");
        let mut stamps = Stamps::default();
        stamps.add_file("data", &path).expect("made");
        stamps.write().expect("written");
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.write_all_at(&sealed(1, 33).0[..512], BLOCK).expect("written");
        assert_eq!(sequences(&stamps)[1], Stamp::Torn);
        Stamps::default().add_file("data", &path).expect("a torn one is no reason to stop");
        file.write_all_at(b"somebody", 5 * BLOCK).expect("written");
        assert!(Stamps::default().add_file("data", &path).is_err());
        let _ = std::fs::remove_file(path);
    }
}
