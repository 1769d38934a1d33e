// SPDX-License-Identifier: Apache-2.0
//! Chunks: naming, packing, checking, and the folder they are stored in.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Shortest chunk cut by content, bytes (the last one before a hole or the end may be shorter).
pub const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Average chunk, bytes: measured as the best balance of shared bytes and requests for VM images.
pub const CHUNK_BYTES_AVG: usize = 32 * 1024;
/// Longest chunk, bytes: bounds what a receiver holds in memory per request.
pub const CHUNK_BYTES_MAX: usize = 128 * 1024;
/// zstd level of stored chunks: packed once, sent thousands of times.
pub const STORE_LEVEL: i32 = 12;
/// zstd level of chunks packed for the peer on each request.
pub const PEER_LEVEL: i32 = 1;

/// A chunk's name: BLAKE3 of its unpacked bytes. Lower-case hex in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChunkHash([u8; 32]);

impl ChunkHash {
    /// Hash of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`HashError`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, HashError> {
        let refuse = || HashError { text: text.chars().take(70).collect() };
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse());
        }
        let hash = blake3::Hash::from_hex(text).map_err(|_| refuse())?;
        Ok(Self(*hash.as_bytes()))
    }

    /// Reads the path of a request, `ab/abcdef…` or `abcdef…`.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let (fan, name) = path.split_once('/').unwrap_or(("", path));
        let hash = Self::from_hex(name).ok()?;
        (fan.is_empty() || fan == &name[..2]).then_some(hash)
    }

    /// Path below a chunk store or a chunk URL: `ab/abcdef…`.
    #[must_use]
    pub fn path(&self) -> String {
        let hex = self.to_string();
        format!("{}/{hex}", &hex[..2])
    }
}

impl From<blake3::Hash> for ChunkHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl TryFrom<String> for ChunkHash {
    type Error = HashError;

    fn try_from(text: String) -> Result<Self, HashError> {
        Self::from_hex(&text)
    }
}

impl From<ChunkHash> for String {
    fn from(hash: ChunkHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Not a BLAKE3 hash in hex.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no chunk name: 64 lower-case hex digits")]
pub struct HashError {
    /// The text, cut short.
    pub text: String,
}

/// Why packed bytes are not the chunk they should be.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// Longer packed than any chunk of that length can be.
    #[error("chunk {hash} is {got} bytes packed, at most {max} are possible")]
    TooLong {
        /// The chunk asked for.
        hash: ChunkHash,
        /// Packed bytes.
        got: usize,
        /// Most that are possible.
        max: usize,
    },
    /// Not a zstd frame, or one that unpacks to more than the signed length.
    #[error("chunk {hash} does not unpack to its {length} bytes")]
    Unpack {
        /// The chunk asked for.
        hash: ChunkHash,
        /// Its signed length.
        length: usize,
        /// The unpacker's words.
        source: std::io::Error,
    },
    /// Unpacks to other bytes.
    #[error("chunk {hash} holds other bytes than its name says")]
    Differs {
        /// The chunk asked for.
        hash: ChunkHash,
    },
    /// The file could not be read or written.
    #[error("{path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Longest packed form of a chunk of `length` bytes.
#[must_use]
pub fn packed_bytes_max(length: usize) -> usize {
    zstd::zstd_safe::compress_bound(length)
}

/// Packs a chunk as one zstd frame.
#[must_use]
pub fn pack(bytes: &[u8], level: i32) -> Vec<u8> {
    zstd::bulk::compress(bytes, level).expect("the buffer is as long as zstd can need")
}

/// Unpacks a chunk and checks it against its name; never unpacks more than `length` bytes.
///
/// # Errors
/// [`ChunkError`] if it is not that chunk.
pub fn unpack(hash: &ChunkHash, length: usize, packed: &[u8]) -> Result<Bytes, ChunkError> {
    let hash = *hash;
    let max = packed_bytes_max(length);
    if packed.len() > max {
        return Err(ChunkError::TooLong { hash, got: packed.len(), max });
    }
    let bytes = zstd::bulk::decompress(packed, length).map_err(|source| ChunkError::Unpack {
        hash,
        length,
        source,
    })?;
    if bytes.len() != length || ChunkHash::of(&bytes) != hash {
        return Err(ChunkError::Differs { hash });
    }
    Ok(bytes.into())
}

/// A folder of packed chunks: `ab/abcdef…`. HQ's is served as static files.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    folder: PathBuf,
}

impl ChunkStore {
    /// A store in this folder, made when missing.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    pub fn open(folder: &Path) -> Result<Self, ChunkError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| ChunkError::Io { path: folder.to_path_buf(), source })?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// File of a chunk, present or not. Safe to serve as it is.
    #[must_use]
    pub fn file(&self, hash: &ChunkHash) -> PathBuf {
        self.folder.join(hash.path())
    }

    /// Packed size of a chunk that is here.
    #[must_use]
    pub fn packed_len(&self, hash: &ChunkHash) -> Option<u64> {
        let meta = std::fs::metadata(self.file(hash)).ok()?;
        (meta.is_file() && meta.len() > 0).then_some(meta.len())
    }

    /// Packs and stores a chunk, unless it is here; returns its packed size. Atomic.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    pub fn add(&self, hash: &ChunkHash, bytes: &[u8]) -> Result<u64, ChunkError> {
        if let Some(length) = self.packed_len(hash) {
            return Ok(length);
        }
        let packed = pack(bytes, STORE_LEVEL);
        self.write(hash, &packed)?;
        Ok(u64::try_from(packed.len()).expect("a chunk's length fits"))
    }

    /// Stores an uploaded, packed chunk after unpacking and checking it (HQ's upload).
    ///
    /// # Errors
    /// [`ChunkError`] if it is not that chunk.
    pub fn add_packed(&self, hash: &ChunkHash, packed: &[u8]) -> Result<(), ChunkError> {
        let max = packed_bytes_max(CHUNK_BYTES_MAX);
        if packed.len() > max {
            return Err(ChunkError::TooLong { hash: *hash, got: packed.len(), max });
        }
        let bytes = zstd::bulk::decompress(packed, CHUNK_BYTES_MAX).map_err(|source| {
            ChunkError::Unpack { hash: *hash, length: CHUNK_BYTES_MAX, source }
        })?;
        if ChunkHash::of(&bytes) != *hash {
            return Err(ChunkError::Differs { hash: *hash });
        }
        if self.packed_len(hash).is_some() {
            return Ok(());
        }
        self.write(hash, packed)
    }

    /// Packed bytes of a chunk, unchecked (the CLI's upload).
    ///
    /// # Errors
    /// [`ChunkError::Io`], also when it is not here.
    pub fn read_packed(&self, hash: &ChunkHash) -> Result<Vec<u8>, ChunkError> {
        let path = self.file(hash);
        std::fs::read(&path).map_err(|source| ChunkError::Io { path, source })
    }

    fn write(&self, hash: &ChunkHash, packed: &[u8]) -> Result<(), ChunkError> {
        let path = self.file(hash);
        let folder = path.parent().expect("a chunk lies in a fan-out folder").to_path_buf();
        write_atomic(&folder, &path, packed).map_err(|source| ChunkError::Io { path, source })
    }
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
pub(crate) fn write_atomic(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".part-").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_survives_packing() {
        let bytes = b"counter".repeat(1000);
        let hash = ChunkHash::of(&bytes);
        let got = unpack(&hash, bytes.len(), &pack(&bytes, STORE_LEVEL)).expect("unpacked");
        assert_eq!(got, bytes);
    }

    #[test]
    fn bytes_that_are_not_the_chunk_are_refused() {
        let bytes = b"counter".repeat(1000);
        let hash = ChunkHash::of(&bytes);
        let good = pack(&bytes, 1);
        let mut flipped = good.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        let bomb = pack(&vec![0; 1 << 30], 1);
        let other = pack(&b"retnuoc".repeat(1000), 1);
        let cases: [(&str, &[u8]); 7] = [
            ("flipped", &flipped),
            ("one byte short", &good[..good.len() - 1]),
            ("empty", &[]),
            ("other bytes", &other),
            ("bomb", &bomb),
            ("no zstd", b"HTTP/1.1 200 OK"),
            ("endless", &[0x28; 1 << 20]),
        ];
        for (what, packed) in cases {
            assert!(unpack(&hash, bytes.len(), packed).is_err(), "{what} was accepted");
        }
        assert!(unpack(&hash, bytes.len() - 1, &good).is_err(), "longer than signed was accepted");
        assert!(unpack(&hash, bytes.len() + 1, &good).is_err(), "shorter than signed was accepted");
    }

    #[test]
    fn names_that_could_leave_the_store_are_refused() {
        let hash = ChunkHash::of(b"x");
        let hex = hash.to_string();
        assert_eq!(ChunkHash::from_path(&hash.path()), Some(hash));
        assert_eq!(ChunkHash::from_path(&hex), Some(hash));
        let upper = hex.to_uppercase();
        let wrong_fan = format!("zz/{hex}");
        let nested = format!("{}/../{hex}", &hex[..2]);
        for bad in ["", "..", "../../etc/passwd", &upper, &wrong_fan, &nested, &hex[1..], "é/é"] {
            assert_eq!(ChunkHash::from_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_uploaded_chunk_is_checked_before_it_is_stored() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = ChunkStore::open(folder.path()).expect("opened");
        let bytes = b"counter".repeat(1000);
        let hash = ChunkHash::of(&bytes);
        let wrong = ChunkHash::of(b"other");
        let bomb = pack(&vec![0; 1 << 30], 1);
        assert!(store.add_packed(&wrong, &pack(&bytes, 3)).is_err());
        assert!(store.add_packed(&ChunkHash::of(&[]), &bomb).is_err());
        assert_eq!(store.packed_len(&wrong), None);
        store.add_packed(&hash, &pack(&bytes, 3)).expect("stored");
        assert_eq!(store.read_packed(&hash).expect("there"), pack(&bytes, 3));
    }
}
