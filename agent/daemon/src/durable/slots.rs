// SPDX-License-Identifier: Apache-2.0
//! Two checksummed slots: what the pair agreed on survives a power cut in the middle of a write.
//!
//! The older slot is overwritten and synced, and only then does the caller go on. A slot: magic,
//! sequence number, length, payload, SHA-256 over all before it. A guest may stand still while one
//! is written, so payloads should be of few lengths: one as long as before is written in its place.

use super::file::{self, FileError, Mode};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"FCSLOT1\n";
const HEAD: usize = 8 + 8 + 4;
const SUM: usize = 32;
/// Longest payload: the core's state is some hundred bytes a VM, for at most 32 VMs.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// A pair of slots, `NAME.0` and `NAME.1`.
#[derive(Debug)]
pub struct Slots {
    paths: [PathBuf; 2],
    newest: Option<(usize, u64)>,
}

impl Slots {
    /// Opens the slots and gives the newest valid payload. A torn or foreign slot counts as
    /// absent: with both so, there is no state, and the core must wait.
    ///
    /// # Errors
    /// [`FileError`] if a slot exists and cannot be read at all.
    pub fn open(dir: &Path, name: &str) -> Result<(Self, Option<Vec<u8>>), FileError> {
        let paths = [0, 1].map(|n| dir.join(format!("{name}.{n}")));
        let mut best: Option<(usize, u64, Vec<u8>)> = None;
        for (at, path) in paths.iter().enumerate() {
            let found = match file::read(path, (HEAD + PAYLOAD_BYTES_MAX + SUM) as u64) {
                Ok(bytes) => bytes.and_then(|b| decode(&b)),
                Err(FileError::TooLarge { .. }) => None,
                Err(err) => return Err(err),
            };
            if let Some((seq, payload)) = found
                && best.as_ref().is_none_or(|(_, top, _)| seq > *top)
            {
                best = Some((at, seq, payload));
            }
        }
        let newest = best.as_ref().map(|(at, seq, _)| (*at, *seq));
        Ok((Self { paths, newest }, best.map(|(_, _, payload)| payload)))
    }

    /// Slots that were never opened: storing into them fails.
    #[must_use]
    pub fn unopened() -> Self {
        Self {
            paths: [PathBuf::from("/nonexistent/0"), PathBuf::from("/nonexistent/1")],
            newest: None,
        }
    }

    /// Whether either slot file exists, valid or not.
    #[must_use]
    pub fn any_file(&self) -> bool {
        self.paths.iter().any(|path| path.exists())
    }

    /// Writes `payload` into the older slot; it is on disk when this returns.
    ///
    /// # Errors
    /// [`FileError`]; the newest slot is untouched.
    pub fn store(&mut self, payload: &[u8]) -> Result<(), FileError> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "the core's state has a bound");
        let (at, seq) = self.newest.map_or((0, 1), |(at, seq)| (1 - at, seq + 1));
        let (path, bytes) = (&self.paths[at], encode(seq, payload));
        if !file::overwrite(path, &bytes)? {
            file::replace(path, &bytes, Mode::Public, true)?;
        }
        self.newest = Some((at, seq));
        Ok(())
    }
}

/// A slot as it lies on the disk.
#[doc(hidden)]
#[must_use]
pub fn encode(seq: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("bounded by PAYLOAD_BYTES_MAX");
    let mut bytes = Vec::with_capacity(HEAD + payload.len() + SUM);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(payload);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// Sequence number and payload of a whole slot.
#[doc(hidden)]
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let body = bytes.strip_prefix(MAGIC)?;
    let (seq, body) = body.split_first_chunk::<8>()?;
    let (len, body) = body.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    if len > PAYLOAD_BYTES_MAX || body.len() != len + SUM {
        return None;
    }
    let (signed, sum) = bytes.split_at(HEAD + len);
    let valid = Sha256::digest(signed).as_slice() == sum;
    valid.then(|| (u64::from_be_bytes(*seq), body[..len].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopen(dir: &Path) -> Option<Vec<u8>> {
        Slots::open(dir, "pair").unwrap().1
    }

    #[test]
    fn the_newest_of_many_writes_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (mut slots, found) = Slots::open(dir.path(), "pair").unwrap();
        assert!(found.is_none() && !slots.any_file());
        for n in 0..5u8 {
            slots.store(&[n; 10]).unwrap();
            assert_eq!(reopen(dir.path()), Some(vec![n; 10]));
        }
    }

    #[test]
    fn a_newest_slot_torn_at_any_byte_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut slots, _) = Slots::open(dir.path(), "pair").unwrap();
        slots.store(b"before").unwrap();
        slots.store(b"after").unwrap();
        let newest = dir.path().join("pair.1");
        let whole = std::fs::read(&newest).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&newest, &whole[..cut]).unwrap();
            assert_eq!(reopen(dir.path()).as_deref(), Some(&b"before"[..]), "cut at {cut}");
        }
        for flip in 0..whole.len() {
            let mut bad = whole.clone();
            bad[flip] ^= 0x40;
            std::fs::write(&newest, &bad).unwrap();
            assert_eq!(reopen(dir.path()).as_deref(), Some(&b"before"[..]), "flip at {flip}");
        }
        std::fs::write(&newest, &whole).unwrap();
        assert_eq!(reopen(dir.path()).as_deref(), Some(&b"after"[..]));
    }

    #[test]
    fn a_payload_as_long_as_before_is_written_in_its_place_and_another_replaces_the_file() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let inode = || std::fs::metadata(dir.path().join("pair.0")).unwrap().ino();
        let (mut slots, _) = Slots::open(dir.path(), "pair").unwrap();
        slots.store(b"first").unwrap();
        // It stays, so that its number cannot be given to another file.
        let link = dir.path().join("held");
        std::fs::hard_link(dir.path().join("pair.0"), &link).unwrap();
        let before = inode();
        for payload in [&b"other"[..], b"third"] {
            slots.store(payload).unwrap();
            assert_eq!(reopen(dir.path()).as_deref(), Some(payload));
        }
        assert_eq!(inode(), before);
        slots.store(b"other").unwrap();
        slots.store(b"longer").unwrap();
        assert_ne!(inode(), before);
        assert_eq!(reopen(dir.path()).as_deref(), Some(&b"longer"[..]));
    }

    #[test]
    fn after_a_torn_slot_the_next_write_spares_the_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut slots, _) = Slots::open(dir.path(), "pair").unwrap();
        slots.store(b"one").unwrap();
        slots.store(b"two").unwrap();
        std::fs::write(dir.path().join("pair.1"), b"torn").unwrap();
        let (mut slots, found) = Slots::open(dir.path(), "pair").unwrap();
        assert_eq!(found.as_deref(), Some(&b"one"[..]));
        slots.store(b"three").unwrap();
        assert_eq!(
            std::fs::read(dir.path().join("pair.0")).map(|b| decode(&b)).unwrap().unwrap().1,
            b"one"
        );
        assert_eq!(reopen(dir.path()).as_deref(), Some(&b"three"[..]));
    }

    #[test]
    fn two_bad_slots_are_no_state_but_leave_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pair.0"), b"").unwrap();
        std::fs::write(dir.path().join("pair.1"), vec![0xff; HEAD + PAYLOAD_BYTES_MAX + SUM + 9])
            .unwrap();
        let (slots, found) = Slots::open(dir.path(), "pair").unwrap();
        assert!(found.is_none() && slots.any_file());
    }
}
