// SPDX-License-Identifier: Apache-2.0
//! The guest's whole user space, in one archive.

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::run::{find, run};
use anyhow::Context as _;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("../files/init");
const POWER: &str = include_str!("../files/power");
const DHCP_BOUND: &str = include_str!("../files/dhcp-bound");
const SERVER: &str = include_str!("bin/parts-counter.rs");
const STAMPS: &str = include_str!("bin/parts-counter/stamps.rs");
/// Modules by the list `init` loads them from; what they need is found. The first are needed to serve,
/// the second if the NoCloud disk is an ISO image, the third for the power button.
const MODULES: &[(&str, &[&str])] = &[
    ("order", &["virtio_pci", "virtio_blk", "virtio_net", "vfat", "nls_cp437", "nls_ascii"]),
    ("order-iso", &["isofs"]),
    ("order-late", &["button", "evdev"]),
];
/// busybox's commands that `init` uses.
const APPLETS: &[&str] = &[
    "acpid", "arping", "cmp", "findfs", "grep", "insmod", "ip", "killall", "mount", "poweroff",
    "reboot", "sh", "sleep", "sync", "udhcpc", "umount",
];

/// Changes when anything that goes into the image from here changes.
pub fn sources_digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    (
        INIT,
        POWER,
        DHCP_BOUND,
        SERVER,
        STAMPS,
        crate::image::SPARE_BYTES,
        crate::image::CONFIG,
        MODULES,
        APPLETS,
    )
        .hash(&mut hasher);
    hasher.finish()
}

/// Builds the archive and packs it; returns its file.
pub fn build(work: &Path, kernel: &Kernel, release: u64) -> anyhow::Result<PathBuf> {
    let mut archive = Archive::default();
    for folder in [
        "bin",
        "data",
        "dev",
        "etc",
        "etc/acpi",
        "etc/acpi/PWRF",
        "modules",
        "proc",
        "run",
        "seed",
        "sys",
    ] {
        archive.folder(folder);
    }
    archive.file("init", INIT.as_bytes());
    archive.file("bin/dhcp-bound", DHCP_BOUND.as_bytes());
    archive.file("etc/acpi/PWRF/00000080", POWER.as_bytes());
    archive.file("etc/release", format!("{release}\n").as_bytes());
    archive.file("bin/parts-counter", &std::fs::read(compile_server(work)?)?);
    archive.file("bin/busybox", &std::fs::read(find("busybox", "busybox-static")?)?);
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    add_with_libraries(&mut archive, &find("mke2fs", "e2fsprogs")?)?;
    let mut added = BTreeSet::new();
    for (list, names) in MODULES {
        let mut order = String::new();
        for (name, content) in kernel.modules(names)? {
            if added.insert(name.clone()) {
                archive.file(&format!("modules/{name}"), &content);
                order = order + &name + "\n";
            }
        }
        archive.file(&format!("modules/{list}"), order.as_bytes());
    }
    let packed = zstd::bulk::compress(&archive.finish(), 19).context("Packing the initramfs")?;
    let path = work.join("initrd");
    std::fs::write(&path, packed).context("Writing the initramfs")?;
    Ok(path)
}

/// Compiles the server statically. By rustc alone: it is std-only, and a nested cargo would
/// wait for the lock of the cargo that runs us.
fn compile_server(work: &Path) -> anyhow::Result<PathBuf> {
    let source = work.join("parts-counter.rs");
    std::fs::write(&source, SERVER)?;
    std::fs::create_dir_all(work.join("parts-counter"))?;
    std::fs::write(work.join("parts-counter/stamps.rs"), STAMPS)?;
    let program = work.join("server");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "--crate-name", "parts_counter", "-C", "opt-level=2"]);
    command.args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols"]);
    command.args(["--target", "x86_64-unknown-linux-gnu"]);
    run(command.arg(&source).arg("-o").arg(&program)).context("Compiling parts-counter")?;
    Ok(program)
}

/// Adds a program to `bin` and the libraries it is linked with to where it looks for them.
fn add_with_libraries(archive: &mut Archive, program: &Path) -> anyhow::Result<()> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    archive.file(&format!("bin/{name}"), &std::fs::read(program)?);
    let mut folders = BTreeSet::new();
    for line in run(Command::new("ldd").arg(program))?.lines() {
        let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
            continue;
        };
        let inner = path.trim_start_matches('/');
        let mut parents: Vec<&Path> = Path::new(inner).ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents.into_iter().filter(|parent| !parent.as_os_str().is_empty()) {
            if folders.insert(parent.to_path_buf()) {
                archive.folder(&parent.to_string_lossy());
            }
        }
        archive.file(inner, &std::fs::read(path).with_context(|| format!("Reading {path}"))?);
    }
    Ok(())
}
