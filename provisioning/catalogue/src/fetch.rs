// SPDX-License-Identifier: Apache-2.0
//! Fetches an image onto its volume: resumes, tries the peer first, checks every byte.

use crate::manifest::ImageIndex;
use crate::source::ChunkSource;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bounds of a fetch.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Chunks asked for at once.
    pub in_flight: usize,
    /// Times a chunk is tried over all sources before the fetch gives up.
    pub tries: u32,
    /// Slower than this over `slow_window`, a source is left for the next.
    pub min_bytes_per_s: u64,
    /// Window of that measurement.
    pub slow_window: std::time::Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            in_flight: 8,
            tries: 4,
            min_bytes_per_s: 8 * 1024,
            slow_window: std::time::Duration::from_secs(60),
        }
    }
}

/// What a fetch has done so far, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct FetchStats {
    /// Image bytes in all.
    pub total_bytes: u64,
    /// Image bytes known good on the target.
    pub done_bytes: u64,
    /// Of these, found on the target (resumed).
    pub reused_bytes: u64,
    /// Of these, zero by the index.
    pub hole_bytes: u64,
    /// Packed bytes received from HQ or a mirror, thrown-away ones included.
    pub wan_bytes: u64,
    /// Packed bytes received from the peer, thrown-away ones included.
    pub peer_bytes: u64,
    /// Chunks that came from HQ or a mirror.
    pub wan_chunks: u64,
    /// Chunks that came from the peer.
    pub peer_chunks: u64,
    /// Answers thrown away: late, short, or lying.
    pub bad_answers: u64,
}

/// Why a fetch stopped; the target keeps what is good, and the next fetch goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The target cannot be read or written.
    #[error("{path} cannot be used")]
    Target {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The target is smaller than the image.
    #[error("{path} has {got} bytes, the image {want}")]
    TargetSize { path: PathBuf, got: u64, want: u64 },
    /// No source gave a good chunk.
    #[error("chunk {hash} could not be had; last from {source_name}: {reason}")]
    Chunk { hash: crate::chunks::ChunkHash, source_name: String, reason: String },
    /// The image on the target is not the signed one (a failing disk).
    #[error("{path} reads back other bytes than were written")]
    Verify { path: PathBuf },
}

/// Fetches `image` onto `target` (a block device, or a file made when missing). Sources are tried in
/// order for each chunk: peer first, then HQ. What is already right on the target is kept. Ends with
/// a sync. Dropping the future stops it; nothing is left that the next call cannot use.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch_image(
    image: &ImageIndex,
    sources: &[Arc<dyn ChunkSource>],
    target: &Path,
    limits: &FetchLimits,
    progress: &(dyn Fn(FetchStats) + Send + Sync),
) -> Result<FetchStats, FetchError> {
    todo!()
}

/// Reads a whole image and compares it with the signed hash (before it is sealed read-only).
///
/// # Errors
/// [`FetchError::Verify`] if it differs.
pub async fn verify_image(image: &ImageIndex, target: &Path) -> Result<(), FetchError> {
    todo!()
}
