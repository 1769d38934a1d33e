// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask deps`: installs from Debian what the other commands need, and says what.

use crate::{sh, ui};
use anyhow::{Context, bail};
use std::process::Command;

/// Compiling the workspace.
pub const BUILD: &[&str] = &["gcc", "libc6-dev", "make", "pkg-config"];
/// Building libFuzzer, which comes as C++.
pub const FUZZ: &[&str] = &["g++"];
/// Running servers in the lab and in the demo.
pub const LAB: &[&str] =
    &["qemu-system-x86", "ovmf", "mtools", "dosfstools", "util-linux", "openssl", "python3-venv"];
/// Building the OS image: mkosi brings its own tools tree, made with these.
pub const IMAGE: &[&str] = &["python3", "debian-archive-keyring", "apt", "zstd", "uidmap"];
/// Building the example template.
pub const TEMPLATE: &[&str] =
    &["apt", "busybox-static", "e2fsprogs", "mtools", "syslinux", "syslinux-common", "xz-utils"];
/// The static checks.
pub const CHECK: &[&str] = &["shellcheck", "git"];
/// The dashboard's browser test.
pub const WEB: &[&str] = &["chromium", "chromium-driver"];
/// Power by BMC: a real Redfish service in a Python environment of its own, and a machine to switch.
pub const BMC: &[&str] = &["python3-venv", "qemu-system-x86"];

/// Installs everything any command needs.
pub fn ensure_all() -> anyhow::Result<()> {
    let all: Vec<&str> = [BUILD, FUZZ, LAB, IMAGE, TEMPLATE, CHECK, WEB, BMC].concat();
    ensure(&all)
}

/// Installs those of `packages` that are missing.
pub fn ensure(packages: &[&str]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> =
        packages.iter().copied().filter(|name| !is_installed(name)).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if sh::find("apt-get").is_none() {
        bail!("missing: {}; this is no Debian machine, please install them", missing.join(" "));
    }
    ui::line(&format!("installing from Debian: {}", missing.join(" ")));
    sh::step("apt-get update", apt_get()?.arg("update"))?;
    let mut install = apt_get()?;
    install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    sh::step("apt-get install", &mut install).context("Installing Debian packages")
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output()
        .is_ok_and(|out| out.stdout.starts_with(b"installed"))
}

fn apt_get() -> anyhow::Result<Command> {
    let mut command = if is_root()? {
        Command::new("apt-get")
    } else if sh::find("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("packages are missing, and neither root nor sudo is at hand to install them");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    Ok(command)
}

fn is_root() -> anyhow::Result<bool> {
    Ok(sh::output(Command::new("id").arg("-u"))?.trim() == "0")
}
