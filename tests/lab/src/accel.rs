// SPDX-License-Identifier: Apache-2.0
//! Whether ordinary guests run under KVM here.
//!
//! A `/dev/kvm` that exists may still hang every normal kernel, so the answer comes from booting one:
//! the kernel of our own image with a first process of a few bytes that prints a marker.

use crate::process::{Child, PidBook};
use crate::rundir::temp_dir;
use anyhow::{Context, bail};
use rustix::fs::{Access, access};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

const MARKER: &str = "FORECOURT-MARKER";
/// Ten times what a working KVM needs for this on a slow host.
const LIMIT: Duration = Duration::from_secs(15);

/// How a server's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Hardware virtualization.
    Kvm,
    /// Emulation; guests inside use the emulated SVM.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it. The emulator repeats `rep movsb` byte by byte, which the kernel takes
    /// for the fast way to copy where ERMS is offered; and every miss of its TLB walks the page
    /// tables, twice over for guests inside, so that a fifth level costs and gives nothing.
    #[must_use]
    pub fn args(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-la57"],
        }
    }

    /// Virtual CPUs of a server. One where it is emulated: with two, Linux inside dies of its own
    /// code patching within minutes of starting and ending guests under KVM (design note 0002).
    #[must_use]
    pub fn cpus(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 1,
        }
    }

    /// `kvm` or `tcg`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Decides by booting a marker guest; remembered in `cache` until the host reboots.
pub fn probe(cache: &Path, uki: &Path) -> anyhow::Result<Accel> {
    let usable = access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok();
    if !usable || !uki.is_file() {
        return Ok(Accel::Tcg);
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    std::fs::create_dir_all(cache)?;
    let known = cache.join(format!("accel-{}", boot.trim()));
    match std::fs::read_to_string(&known).as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        _ => {}
    }
    let works = boots(uki, Accel::Kvm, LIMIT)?;
    let accel = if works { Accel::Kvm } else { Accel::Tcg };
    std::fs::write(known, accel.name())?;
    Ok(accel)
}

/// Boots the marker guest; true when its marker came in time.
pub fn boots(uki: &Path, accel: Accel, limit: Duration) -> anyhow::Result<bool> {
    let dir = temp_dir("probe")?;
    let (kernel, initrd) = (dir.path().join("kernel"), dir.path().join("initrd"));
    std::fs::write(&kernel, linux_section(&std::fs::read(uki)?).context("Reading the UKI")?)?;
    std::fs::write(&initrd, marker_initrd())?;
    let serial = dir.path().join("serial");
    let mut args: Vec<String> = accel.args().map(str::to_owned).to_vec();
    for word in ["-machine", "q35", "-m", "384", "-nodefaults", "-display", "none", "-no-reboot"] {
        args.push(word.to_owned());
    }
    for (flag, path) in [("-kernel", &kernel), ("-initrd", &initrd)] {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args.extend(["-append".to_owned(), "console=ttyS0 quiet panic=-1".to_owned()]);
    args.extend(["-serial".to_owned(), format!("file:{}", serial.display())]);
    let book = PidBook::new(dir.path().join("pids"));
    let log = dir.path().join("log");
    let program = Path::new("qemu-system-x86_64");
    let mut child = Child::spawn(&book, "marker guest", &log, program, args)?;
    let start = Instant::now();
    while start.elapsed() < limit {
        // A guest that powers off right after the marker must still be read.
        let ended = child.has_ended().is_some();
        if std::fs::read(&serial).is_ok_and(|out| contains(&out, MARKER.as_bytes())) {
            return Ok(true);
        }
        if ended {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The `.linux` section of a unified kernel image, or the file itself if it is a plain kernel.
fn linux_section(file: &[u8]) -> anyhow::Result<Vec<u8>> {
    // A bzImage carries "HdrS" at 0x202, a PE stub does not.
    if file.get(0x202..0x206) == Some(b"HdrS") {
        return Ok(file.to_vec());
    }
    let word = |at: usize| -> anyhow::Result<usize> {
        let bytes = file.get(at..at + 4).context("The file ends early")?;
        let bytes = <[u8; 4]>::try_from(bytes)?;
        Ok(usize::try_from(u32::from_le_bytes(bytes))?)
    };
    let pe = word(0x3c)?;
    let half = |at: usize| word(at).map(|w| w & 0xffff);
    let (count, optional) = (half(pe + 6)?, half(pe + 20)?);
    for index in 0..count.min(96) {
        let section = pe + 24 + optional + 40 * index;
        if file.get(section..section + 8) == Some(b".linux\0\0") {
            let (size, offset) = (word(section + 16)?, word(section + 20)?);
            let data = file.get(offset..offset + size).context("The section ends early")?;
            return Ok(data.to_vec());
        }
    }
    bail!("no .linux section")
}

/// An initramfs (cpio, newc) whose only file is the first process.
fn marker_initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    cpio_entry(&mut archive, "init", 0o100_755, &marker_program());
    cpio_entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn cpio_entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let fields = [1, mode as usize, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0]
        .map(|f| format!("{f:08x}"));
    archive.extend_from_slice(b"070701");
    archive.extend_from_slice(fields.concat().as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A static ELF: `write(1, marker)`, then `reboot(POWER_OFF)`, then a loop.
fn marker_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let text = format!("\n{MARKER}\n");
    #[rustfmt::skip]
    let code: [u8; 48] = [
        0xb8, 1, 0, 0, 0,                         // mov eax, 1 (write)
        0xbf, 1, 0, 0, 0,                         // mov edi, 1
        0x48, 0x8d, 0x35, 31, 0, 0, 0,            // lea rsi, [rip + 31]: the text after the code
        0xba, 18, 0, 0, 0,                        // mov edx, 18
        0x0f, 0x05,                               // syscall
        0xb8, 169, 0, 0, 0,                       // mov eax, 169 (reboot)
        0xbf, 0xad, 0xde, 0xe1, 0xfe,             // mov edi, 0xfee1dead
        0xbe, 0x69, 0x19, 0x12, 0x28,             // mov esi, 672274793
        0xba, 0xdc, 0xfe, 0x21, 0x43,             // mov edx, 0x4321fedc
        0x0f, 0x05,                               // syscall
        0xeb, 0xfe,                               // jmp self
    ];
    let size = HEADERS + code.len() as u64 + text.len() as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for half in [2u16, 62] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for long in [BASE + HEADERS, 64, 0] {
        elf.extend_from_slice(&long.to_le_bytes());
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    for long in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&long.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf.extend_from_slice(text.as_bytes());
    elf
}

#[cfg(test)]
mod tests {
    use super::{MARKER, linux_section, marker_program};
    use std::process::Command;

    /// The program prints its marker on this host too; its `reboot` is refused or not reached.
    #[test]
    fn the_marker_program_is_a_working_elf() {
        use std::os::unix::fs::PermissionsExt;
        let dir = crate::rundir::temp_dir("elf").unwrap();
        let file = dir.path().join("init");
        // Without the reboot: a loop right after the write.
        let mut elf = marker_program();
        let after_write = 120 + 24;
        elf[after_write..after_write + 2].copy_from_slice(&[0xeb, 0xfe]);
        std::fs::write(&file, elf).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let out = Command::new("timeout").arg("1").arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), MARKER);
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        assert!(linux_section(&[]).is_err());
        assert!(linux_section(&[0xff; 300]).is_err());
    }
}
