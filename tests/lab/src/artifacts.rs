// SPDX-License-Identifier: Apache-2.0
//! What the lab needs built before it starts.

use crate::accel::Accel;
use crate::emulator::Emulator;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// Firmware files of Debian's `ovmf`: code, then the empty variable store.
const FIRMWARE: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// Paths of everything the lab starts.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// Folder of the release binaries `forecourt-hq` and `forecourt`.
    pub bin_dir: PathBuf,
    /// The OS image.
    pub image: PathBuf,
    /// The image's unified kernel image.
    pub uki: PathBuf,
    /// Folder of the example template.
    pub template: PathBuf,
    /// Folder for runs, such as `target/lab`.
    pub out: PathBuf,
    /// Folder of the tools the image was built with, if it is kept.
    pub tools: Option<PathBuf>,
}

impl Artifacts {
    /// Where `cargo xtask` leaves everything under a target folder.
    #[must_use]
    pub fn in_target(target: &Path, tools: PathBuf) -> Self {
        Self {
            bin_dir: target.join("release"),
            image: target.join("image/forecourt.raw"),
            uki: target.join("image/forecourt.efi"),
            template: target.join("template"),
            out: target.join("lab"),
            tools: Some(tools),
        }
    }

    /// Fails with the name of the first part that is missing.
    pub fn check(&self) -> anyhow::Result<()> {
        let binaries = ["forecourt-hq", "forecourt"].map(|name| self.bin_dir.join(name));
        for path in binaries.iter().chain([&self.image]) {
            if !path.is_file() {
                bail!("{} is missing; run `cargo xtask build` and `image`", path.display());
            }
        }
        firmware().map(drop)
    }

    /// Whether servers can use KVM here; asked once a boot.
    pub fn accel(&self) -> anyhow::Result<Accel> {
        crate::accel::probe(&self.out, &self.uki)
    }

    /// The QEMU for servers run by `accel`.
    #[must_use]
    pub fn emulator(&self, accel: Accel) -> Emulator {
        Emulator::find(self.tools.as_deref(), accel)
    }
}

/// The firmware's code and its empty variable store.
pub fn firmware() -> anyhow::Result<(PathBuf, PathBuf)> {
    FIRMWARE
        .iter()
        .map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)))
        .find(|(code, vars)| code.is_file() && vars.is_file())
        .context("no UEFI firmware found in /usr/share/OVMF; install Debian's `ovmf`")
}
