// SPDX-License-Identifier: Apache-2.0
//! The claim stick: a FAT file system labelled FORECOURT with `claim.txt` and `owner.json`.

use crate::durable::file::{self, FileError};
use provisioning_protocol::claim::{ClaimCode, ClaimError};
use provisioning_protocol::owner::OwnerBundle;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// How udev's database names a stick.
const LABELLED: &str = "E:ID_FS_LABEL=FORECOURT";
/// Most devices looked at.
const DEVICES_MAX: usize = 8;
const CLAIM_BYTES_MAX: u64 = 4 * 1024;
const OWNER_BYTES_MAX: u64 = 256 * 1024;
const URLS_MAX: usize = 8;
const VOUCHER_KEYS_MAX: usize = 8;

/// What the stick holds.
#[derive(Debug, Clone)]
pub struct Stick {
    /// The claim code.
    pub claim: ClaimCode,
    /// HQ's addresses and roots.
    pub owner: OwnerBundle,
}

/// Why there is no usable stick; the text is shown on the console.
#[derive(Debug, Error)]
pub enum StickError {
    /// None plugged in.
    #[error("No claim stick found; plug in the USB stick labelled FORECOURT")]
    Absent,
    /// It cannot be mounted.
    #[error("Cannot read the claim stick {}; is it a FAT file system?", device.display())]
    Mount {
        /// The block device.
        device: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file is not there.
    #[error("The claim stick holds no {0}")]
    Missing(&'static str),
    /// A file is unreadable, too large or not what it should be.
    #[error("The claim stick's file is unusable")]
    File(#[from] FileError),
    /// `claim.txt` is no claim code.
    #[error("claim.txt on the claim stick is no valid claim code")]
    Claim(#[from] ClaimError),
    /// `owner.json` says something impossible.
    #[error("owner.json on the claim stick is unusable: {0}")]
    Owner(String),
}

/// Looks at every file system labelled FORECOURT: mounts it, reads both files, unmounts it. The
/// first that is complete is the stick; else the error is of the last that was tried.
///
/// # Errors
/// [`StickError`].
pub fn read_stick(mount_point: &Path) -> Result<Stick, StickError> {
    let mut last = StickError::Absent;
    for device in labelled(Path::new("/run/udev/data"), Path::new("/sys/dev/block")) {
        match read_device(&device, mount_point) {
            Ok(stick) => return Ok(stick),
            Err(err) => last = err,
        }
    }
    Err(last)
}

/// Devices whose file system udev found to be labelled FORECOURT. (`/dev/disk/by-label` would
/// name only one of them.)
fn labelled(udev_data: &Path, sys_block: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(udev_data).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix('b') else { continue };
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if !text.lines().any(|line| line == LABELLED) {
            continue;
        }
        let device = std::fs::read_link(sys_block.join(number)).ok();
        if let Some(kernel_name) = device.as_deref().and_then(Path::file_name) {
            found.push(Path::new("/dev").join(kernel_name));
        }
    }
    found.sort();
    found.truncate(DEVICES_MAX);
    found
}

fn read_device(device: &Path, mount_point: &Path) -> Result<Stick, StickError> {
    let failed = |source| StickError::Mount { device: device.to_owned(), source };
    std::fs::create_dir_all(mount_point).map_err(failed)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, mount_point, "vfat", flags, None).map_err(|err| failed(err.into()))?;
    let stick = read_folder(mount_point);
    if let Err(error) = unmount(mount_point, UnmountFlags::DETACH) {
        tracing::warn!(%error, "claim stick stays mounted");
    }
    stick
}

/// Reads both files from a folder.
///
/// # Errors
/// [`StickError`].
pub fn read_folder(dir: &Path) -> Result<Stick, StickError> {
    let owner: OwnerBundle =
        file::read_json(&dir.join("owner.json"), "owner bundle", OWNER_BYTES_MAX)?
            .ok_or(StickError::Missing("owner.json"))?;
    check_owner(&owner).map_err(StickError::Owner)?;
    let claim = file::read(&dir.join("claim.txt"), CLAIM_BYTES_MAX)?
        .ok_or(StickError::Missing("claim.txt"))?;
    Ok(Stick { claim: read_claim(&claim)?, owner })
}

/// The code in `claim.txt`: its first line that is not blank.
///
/// # Errors
/// [`ClaimError`].
pub fn read_claim(bytes: &[u8]) -> Result<ClaimCode, ClaimError> {
    let text = String::from_utf8_lossy(bytes);
    ClaimCode::parse(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default())
}

/// Checks what the type cannot.
///
/// # Errors
/// What is wrong, in words.
pub fn check_owner(owner: &OwnerBundle) -> Result<(), String> {
    if owner.v != 1 {
        return Err(format!("it has version {}, this agent knows version 1", owner.v));
    }
    if owner.hq_urls.is_empty() || owner.hq_urls.len() > URLS_MAX {
        return Err(format!("it must name 1 to {URLS_MAX} HQ addresses"));
    }
    for url in &owner.hq_urls {
        let parsed = reqwest::Url::parse(url).ok();
        if !parsed.is_some_and(|u| u.scheme() == "https" && u.has_host()) {
            return Err(format!("\"{url:.80}\" is no https:// address"));
        }
    }
    if owner.voucher_keys_spki.is_empty() || owner.voucher_keys_spki.len() > VOUCHER_KEYS_MAX {
        return Err(format!("it must name 1 to {VOUCHER_KEYS_MAX} voucher keys"));
    }
    crate::hq::tls::root_store(&owner.hq_root_ca_pem).map(|_| ()).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> OwnerBundle {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        OwnerBundle {
            v: 1,
            hq_urls: vec!["https://10.0.2.2:8443".into()],
            hq_root_ca_pem: params.self_signed(&key).unwrap().pem(),
            voucher_keys_spki: vec!["AA==".into()],
            tuf_root_json: "{}".into(),
            build_epoch_s: 1,
        }
    }

    fn stick(claim: &str, owner: &OwnerBundle) -> Result<Stick, StickError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("claim.txt"), claim).unwrap();
        std::fs::write(dir.path().join("owner.json"), serde_json::to_vec(owner).unwrap()).unwrap();
        read_folder(dir.path())
    }

    #[test]
    fn a_good_stick_is_read_as_people_write_it() {
        let code = ClaimCode::from_random(&[5; 15]);
        let text = format!("\r\n {} \r\n", code.grouped().to_lowercase());
        assert_eq!(stick(&text, &owner()).unwrap().claim, code);
    }

    #[test]
    fn every_device_with_the_label_is_found_not_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let (udev, sys) = (dir.path().join("data"), dir.path().join("block"));
        std::fs::create_dir_all(&udev).unwrap();
        std::fs::create_dir_all(&sys).unwrap();
        let devices =
            [("252:16", "vdb", "FORECOURT"), ("8:0", "sda", "FORECOURT"), ("8:16", "sdb", "OTHER")];
        for (number, name, label) in devices {
            let text = format!("S:disk/x\nE:ID_FS_TYPE=vfat\nE:ID_FS_LABEL={label}\n");
            std::fs::write(udev.join(format!("b{number}")), text).unwrap();
            let target = format!("../../devices/x/block/{name}");
            std::os::unix::fs::symlink(target, sys.join(number)).unwrap();
        }
        std::fs::write(udev.join("c1:3"), "E:ID_FS_LABEL=FORECOURT\n").unwrap();
        let expected = [PathBuf::from("/dev/sda"), PathBuf::from("/dev/vdb")];
        assert_eq!(labelled(&udev, &sys), expected);
    }

    #[test]
    fn each_fault_of_a_stick_says_what_is_wrong() {
        let code = ClaimCode::from_random(&[5; 15]).grouped();
        let http = OwnerBundle { hq_urls: vec!["http://hq".into()], ..owner() };
        let none = OwnerBundle { hq_urls: vec![], ..owner() };
        let no_ca = OwnerBundle { hq_root_ca_pem: "-----BEGIN".into(), ..owner() };
        let newer = OwnerBundle { v: 2, ..owner() };
        for (bad, word) in
            [(http, "https"), (none, "1 to 8"), (no_ca, "certificate"), (newer, "version 2")]
        {
            let text = stick(&code, &bad).unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
        assert!(matches!(stick("ABCD", &owner()), Err(StickError::Claim(_))));
        assert!(matches!(stick(&"7".repeat(5000), &owner()), Err(StickError::File(_))));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(read_folder(empty.path()), Err(StickError::Missing("owner.json"))));
    }
}
