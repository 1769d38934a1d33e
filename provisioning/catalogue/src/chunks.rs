// SPDX-License-Identifier: Apache-2.0
//! Chunks: cutting, packing, checking, and the folder they are stored in.

use bytes::Bytes;
use std::fmt;
use std::path::{Path, PathBuf};

/// Shortest chunk cut by content, bytes (the last one before a hole or the end may be shorter).
pub const CHUNK_BYTES_MIN: usize = 8 * 1024;
/// Average chunk, bytes: measured as the best balance of shared bytes and requests for VM images.
pub const CHUNK_BYTES_AVG: usize = 32 * 1024;
/// Longest chunk, bytes: bounds what a receiver holds in memory per request.
pub const CHUNK_BYTES_MAX: usize = 128 * 1024;

/// A chunk's name: BLAKE3 of its unpacked bytes. Lower-case hex in text.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
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
        todo!()
    }

    /// Path below a chunk store or a chunk URL: `ab/abcdef…`.
    #[must_use]
    pub fn path(&self) -> String {
        todo!()
    }
}
impl TryFrom<String> for ChunkHash {
    type Error = HashError;
    fn try_from(t: String) -> Result<Self, HashError> {
        Self::from_hex(&t)
    }
}
impl From<ChunkHash> for String {
    fn from(h: ChunkHash) -> String {
        h.to_string()
    }
}
impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
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
    TooLong { hash: ChunkHash, got: usize, max: usize },
    /// Not a zstd frame, or one that unpacks to more than the signed length.
    #[error("chunk {hash} does not unpack to its {length} bytes")]
    Unpack {
        hash: ChunkHash,
        length: usize,
        #[source]
        source: std::io::Error,
    },
    /// Unpacks to other bytes.
    #[error("chunk {hash} holds other bytes than its name says")]
    Differs { hash: ChunkHash },
    /// The store could not be read or written.
    #[error("chunk file {path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
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
    todo!()
}

/// Unpacks a chunk and checks it against its name; never unpacks more than `length` bytes.
///
/// # Errors
/// [`ChunkError`] if it is not that chunk.
pub fn unpack(hash: &ChunkHash, length: usize, packed: &[u8]) -> Result<Bytes, ChunkError> {
    todo!()
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
        todo!()
    }

    /// File of a chunk, present or not. Safe to serve as it is.
    #[must_use]
    pub fn file(&self, hash: &ChunkHash) -> PathBuf {
        self.folder.join(hash.path())
    }

    /// Packed size of a chunk that is here.
    #[must_use]
    pub fn packed_len(&self, hash: &ChunkHash) -> Option<u64> {
        todo!()
    }

    /// Packs and stores a chunk, unless it is here; returns its packed size. Atomic.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    pub fn add(&self, hash: &ChunkHash, bytes: &[u8]) -> Result<u64, ChunkError> {
        todo!()
    }

    /// Stores an uploaded, packed chunk after unpacking and checking it (HQ's upload).
    ///
    /// # Errors
    /// [`ChunkError`] if it is not that chunk.
    pub fn add_packed(&self, hash: &ChunkHash, packed: &[u8]) -> Result<(), ChunkError> {
        todo!()
    }

    /// Packed bytes of a chunk, unchecked (the CLI's upload).
    ///
    /// # Errors
    /// [`ChunkError::Io`], also when it is not here.
    pub fn read_packed(&self, hash: &ChunkHash) -> Result<Vec<u8>, ChunkError> {
        todo!()
    }
}
