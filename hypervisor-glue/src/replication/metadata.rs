// SPDX-License-Identifier: Apache-2.0
//! Whether a backing volume may be given DRBD metadata: only if nothing at all is in its place.

use super::ReplicaSpec;
use crate::error::{GlueError, Result};
use crate::volumes::size::metadata_bytes;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What lies between the guest's last byte and the end of the backing volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Zeros alone.
    Empty,
    /// Something.
    Written,
}

/// Checks the sizes and reads the tail of the backing volume.
pub(super) fn inspect(spec: &ReplicaSpec) -> Result<Tail> {
    let bytes = device_bytes(&spec.backing)?;
    let usable = (bytes - bytes % 4096).saturating_sub(metadata_bytes(bytes));
    if usable < spec.guest_bytes {
        return Err(GlueError::refused(
            format!("replicate {}", spec.backing.display()),
            format!(
                "its {bytes} bytes leave {usable} to the guest, which needs {}",
                spec.guest_bytes
            ),
        ));
    }
    read_tail(&spec.backing, spec.guest_bytes)
        .map_err(|err| GlueError::file("read", &spec.backing, err))
}

/// Size of a block device or file.
pub(super) fn device_bytes(path: &Path) -> Result<u64> {
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .map_err(|err| GlueError::file("open", path, err))
}

fn read_tail(path: &Path, from: u64) -> std::io::Result<Tail> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Tail::Empty),
            n if chunk[..n].iter().any(|byte| *byte != 0) => return Ok(Tail::Written),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioning_protocol::desired::Secret;
    use provisioning_protocol::ids::{DiskName, VmName};
    use std::os::unix::fs::FileExt;

    fn spec(path: &Path, guest_bytes: u64) -> ReplicaSpec {
        ReplicaSpec {
            vm: VmName::new("vm").expect("valid"),
            disk: DiskName::new("data").expect("valid"),
            number: 0,
            backing: path.to_owned(),
            guest_bytes,
            own: "::1".parse().expect("valid"),
            peer: "::1".parse().expect("valid"),
            secret: Secret("x".into()),
        }
    }

    #[test]
    fn one_byte_behind_the_guest_is_seen() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("volume");
        let file = File::create(&path).expect("create");
        file.set_len(16 << 20).expect("size");
        let spec = spec(&path, 8 << 20);
        assert_eq!(inspect(&spec).expect("inspected"), Tail::Empty);
        file.write_at(b"x", (8 << 20) - 1).expect("write");
        assert_eq!(inspect(&spec).expect("inspected"), Tail::Empty, "the guest's last byte");
        file.write_at(b"x", (16 << 20) - 1).expect("write");
        assert_eq!(inspect(&spec).expect("inspected"), Tail::Written);
    }

    #[test]
    fn a_volume_that_would_cut_the_guest_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("volume");
        File::create(&path).and_then(|file| file.set_len(16 << 20)).expect("size");
        let err = inspect(&spec(&path, 16 << 20)).expect_err("refused");
        assert!(matches!(err, GlueError::Refused { .. }), "{err}");
    }
}
