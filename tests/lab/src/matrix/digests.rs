// SPDX-License-Identifier: Apache-2.0
//! What a resync must not take for equal: blocks that carry their own CRC-32C, as ext4's superblock and
//! extent blocks do. With it at its end, every content of such a block has one and the same CRC-32C.

use super::round::{PAIR_LIMIT, Round, volumes};
use crate::scenario::Scenario;
use crate::site::{Site, VM};
use anyhow::{Context, ensure};
use crc::{CRC_32_ISCSI, Crc};

pub const DIGESTS: &[Scenario] = &[Scenario {
    name: "same-checksum",
    about: "a block changes while parted, its CRC-32C does not: the resync copies it all the same",
    run: same_checksum,
}];

const BLOCK_BYTES: usize = 4096;
/// Words are no longer than this.
const HEAD_BYTES: usize = 16;
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

fn same_checksum(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let disk = Disk::of_guest(&mut round)?;
    let [first, second] = ["THE FIRST", "THE SECOND"].map(sealed);
    ensure!(CRC32C.checksum(&first) == CRC32C.checksum(&second), "these blocks show nothing");
    disk.write(&mut round, &first)?;
    round.part(true);
    round.fault("every way between the servers is cut");
    round.stayed()?;
    disk.write(&mut round, &second)?;
    round.part(false);
    round.site.wait_paired(PAIR_LIMIT)?;
    for name in ["a", "b"] {
        let found = disk.below(&mut round, name)?;
        ensure!(
            found.contains("THE SECOND"),
            "server {name} holds {found:?}: the resync took a block that differs for equal"
        );
    }
    disk.write(&mut round, &[0; BLOCK_BYTES])?;
    round.nobody_rebooted()?;
    round.end()
}

/// A block that ends with the CRC-32C of all before it.
fn sealed(words: &str) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..words.len()].copy_from_slice(words.as_bytes());
    let end = BLOCK_BYTES - 4;
    // Without the last inversion: so ext4 keeps it.
    let sum = !CRC32C.checksum(&block[..end]);
    block[end..].copy_from_slice(&sum.to_le_bytes());
    block
}

/// The last block of the VM's data disk, which its file system does not use.
struct Disk {
    minor: String,
    block: u64,
}

impl Disk {
    fn of_guest(round: &mut Round) -> anyhow::Result<Self> {
        let text = round.exec(round.host, "cat /proc/drbd")?;
        let minor = volumes(&text).last().context("no volumes")?.0.to_owned();
        let bytes = round.exec(round.host, &format!("blockdev --getsize64 /dev/drbd{minor}"))?;
        let blocks = bytes.trim().parse::<u64>()? / u64::try_from(BLOCK_BYTES)?;
        let disk = Self { minor, block: blocks - 1 };
        let found = disk.below(round, round.host)?;
        ensure!(found.is_empty(), "the last block is in use: {found:?}");
        Ok(disk)
    }

    /// On the VM's server, through replication.
    fn write(&self, round: &mut Round, block: &[u8; BLOCK_BYTES]) -> anyhow::Result<()> {
        let octal = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |text, byte| format!("{text}\\{byte:03o}"))
        };
        let (head, end) = (HEAD_BYTES, BLOCK_BYTES - 4);
        let command = format!(
            "{{ printf '{}'; head -c {} /dev/zero; printf '{}'; }} | dd of=/dev/drbd{} \
             bs={BLOCK_BYTES} seek={} iflag=fullblock oflag=direct conv=notrunc status=none",
            octal(&block[..head]),
            end - head,
            octal(&block[end..]),
            self.minor,
            self.block
        );
        round.exec(round.host, &command).map(drop)
    }

    /// What a server holds below replication, as text.
    fn below(&self, round: &mut Round, name: &str) -> anyhow::Result<String> {
        let command = format!(
            "dd if=/dev/forecourt/vm-{VM}-data bs={BLOCK_BYTES} skip={} count=1 iflag=direct \
             status=none | tr -d '\\000' | head -c 10 | tr -cd 'A-Z '",
            self.block
        );
        round.exec(name, &command)
    }
}

#[cfg(test)]
mod tests {
    use super::{CRC32C, sealed};

    #[test]
    fn two_blocks_that_differ_have_one_checksum() {
        let [first, second] = ["one", "another"].map(sealed);
        assert_ne!(first, second);
        assert_eq!(CRC32C.checksum(&first), CRC32C.checksum(&second));
    }
}
