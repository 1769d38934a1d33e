// SPDX-License-Identifier: Apache-2.0
//! The system disk: an MBR and one FAT partition that syslinux boots from, made without root.

use crate::run::{find, run};
use anyhow::{Context as _, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

/// Boot loader's configuration.
pub const CONFIG: &str = include_str!("../files/syslinux.cfg");

/// After the partition, for the stamps that parts-counter writes.
pub const SPARE_BYTES: u64 = 1 << 20;

const SECTOR: u64 = 512;
/// First sector of the partition: 1 MiB, as everywhere.
const START: u32 = 2048;
const MBR: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// Active, FAT16 by LBA.
const PARTITION_TYPE: u8 = 0x0e;

/// Makes the image.
pub fn build(image: &Path, work: &Path, vmlinuz: &Path, initrd: &Path) -> anyhow::Result<()> {
    let config = work.join("syslinux.cfg");
    std::fs::write(&config, CONFIG)?;
    let content = [vmlinuz, initrd]
        .iter()
        .map(|path| std::fs::metadata(path).map(|meta| meta.len()))
        .sum::<Result<u64, _>>()?;
    // Boot loader, FATs, and room for a kernel that grows: 2 MiB over, in whole MiB.
    let size = (content + (3 << 20)).next_multiple_of(1 << 20) + u64::from(START) * SECTOR;
    let part = image.with_extension("part");
    let file = File::create(&part).with_context(|| format!("Making {}", part.display()))?;
    file.set_len(size)?;
    let sectors = u32::try_from(size / SECTOR).context("the image is small")? - START;
    file.write_all_at(&master_boot_record(sectors)?, 0)?;
    file.sync_all()?;
    drop(file);

    let at = format!("{}@@{}", part.display(), u64::from(START) * SECTOR);
    let mtools = |program: &str| {
        let mut command = Command::new(program);
        command.args(["-i", &at]).env("MTOOLS_SKIP_CHECK", "1");
        command
    };
    let (total, hidden) = (sectors.to_string(), START.to_string());
    // A fixed serial number: the same input gives the same image.
    let mut format = mtools("mformat");
    format.args(["-T", &total, "-h", "255", "-s", "63", "-H", &hidden, "-N", "50415254", "::"]);
    run(&mut format)?;
    for (from, to) in [(vmlinuz, "::vmlinuz"), (initrd, "::initrd"), (&config, "::syslinux.cfg")] {
        run(mtools("mcopy").arg(from).arg(to))?;
    }
    let offset = (u64::from(START) * SECTOR).to_string();
    let syslinux = find("syslinux", "syslinux")?;
    run(Command::new(syslinux).args(["--offset", &offset, "--install"]).arg(&part))?;
    File::options().write(true).open(&part)?.set_len(size + SPARE_BYTES)?;
    std::fs::rename(&part, image).context("Keeping the image")?;
    Ok(())
}

fn master_boot_record(sectors: u32) -> anyhow::Result<[u8; 512]> {
    let loader = std::fs::read(MBR)
        .with_context(|| format!("Reading {MBR}: install Debian's package syslinux-common"))?;
    ensure!(loader.len() <= 440, "{MBR} is longer than a boot record has room for");
    let mut record = [0; 512];
    record[..loader.len()].copy_from_slice(&loader);
    let entry = &mut record[446..462];
    entry[0] = 0x80;
    // Cylinder, head and sector beyond what they can say: use the sector numbers.
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = PARTITION_TYPE;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&START.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(record)
}
