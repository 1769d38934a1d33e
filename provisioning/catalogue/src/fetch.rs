// SPDX-License-Identifier: Apache-2.0
//! Fetches an image onto its volume: resumes, tries the peer first, checks every byte.
//!
//! ```text
//!  scan target ─► missing chunks ─► up to 8 at once: peer ─► HQ ─► unpack, check ─► write ─► sync
//!      └ good chunks and holes stay                 (a bad answer: the next source, then again)
//! ```
//!
//! There is no journal: what is right on the target is found by its hash. So a fetch can be killed
//! at any byte and the next one only gets what is missing.

use crate::chunks::{ChunkHash, packed_bytes_max, unpack};
use crate::manifest::{Extent, ImageIndex};
use crate::source::{ChunkSource, SourceError, SourceKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A source that failed this often in a row is left alone for [`FetchLimits::bench`].
const FAILURES_MAX: u32 = 3;
/// Piece in which holes are looked at and whole images are read.
const READ_BYTES: usize = 1024 * 1024;

/// Bounds of a fetch.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Chunks asked for at once.
    pub in_flight: usize,
    /// Rounds over all sources a chunk is tried before the fetch gives up.
    pub tries: u32,
    /// Pause before the second round; doubles with each.
    pub pause: Duration,
    /// How long a source that fails again and again is not asked.
    pub bench: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            in_flight: 8,
            tries: 4,
            pause: Duration::from_millis(500),
            bench: Duration::from_secs(30),
        }
    }
}

/// What a fetch has done so far, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Answers thrown away: late, short, long or lying. (Not having a chunk is no bad answer.)
    pub bad_answers: u64,
}

/// Why a fetch stopped; the target keeps what is good, and the next fetch goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The target cannot be read or written.
    #[error("{path} cannot be used")]
    Target {
        /// The target.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The target is smaller than the image.
    #[error("{path} has {got} bytes, the image {want}")]
    TargetSize {
        /// The target.
        path: PathBuf,
        /// Its size.
        got: u64,
        /// The image's size.
        want: u64,
    },
    /// No source gave a good chunk.
    #[error("chunk {hash} could not be had from any source; the last said: {reason}")]
    Chunk {
        /// The chunk.
        hash: ChunkHash,
        /// What the last source said or did.
        reason: String,
    },
    /// The image on the target is not the signed one (a failing disk).
    #[error("{path} reads back other bytes than were signed")]
    Verify {
        /// The target.
        path: PathBuf,
    },
}

/// Called after each step; throttle it if it is dear.
pub type Progress<'a> = &'a (dyn Fn(FetchStats) + Send + Sync);

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
    progress: Progress<'_>,
) -> Result<FetchStats, FetchError> {
    let (image_copy, path) = (image.clone(), target.to_path_buf());
    let scan = blocking(move || scan(&image_copy, &path)).await?;
    let state = Shared { stats: Mutex::new(scan.stats), progress };
    progress(scan.stats);
    let benched: Vec<Bench> = sources.iter().map(|_| Bench::default()).collect();
    let sources: Vec<Source<'_>> = sources
        .iter()
        .zip(&benched)
        .map(|(chunks, bench)| Source { chunks: chunks.as_ref(), bench })
        .collect();
    let file = Arc::new(scan.file);
    // By value: a closure over borrowed items would make the future unfit for `spawn`.
    let work = scan.missing.into_iter().map(|missing| {
        let (file, state, sources) = (Arc::clone(&file), &state, &sources);
        async move {
            let bytes = get_chunk(&missing, sources, limits, state).await?;
            write_chunk(file, &missing, bytes, target).await?;
            state.update(|stats| stats.done_bytes += missing.covers());
            Ok::<(), FetchError>(())
        }
    });
    let mut running = futures_util::stream::iter(work).buffer_unordered(limits.in_flight.max(1));
    while let Some(done) = running.next().await {
        done?;
    }
    drop(running);
    let path = target.to_path_buf();
    blocking(move || file.sync_all().map_err(|source| FetchError::Target { path, source })).await?;
    let stats = state.stats.into_inner().expect("no thread panicked with it");
    Ok(stats)
}

/// Reads a whole image and compares it with the signed hash (before it is sealed read-only).
///
/// # Errors
/// [`FetchError::Verify`] if it differs.
pub async fn verify_image(image: &ImageIndex, target: &Path) -> Result<(), FetchError> {
    let (want, size, path) = (image.blake3, image.size, target.to_path_buf());
    blocking(move || {
        let failed = |source| FetchError::Target { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let mut whole = blake3::Hasher::new();
        for_pieces(&file, 0, size, |_, piece| {
            whole.update(piece);
            Ok(())
        })
        .map_err(failed)?;
        if ChunkHash::from(whole.finalize()) == want {
            return Ok(());
        }
        Err(FetchError::Verify { path: path.clone() })
    })
    .await
}

/// A chunk the target lacks, and the places it belongs.
#[derive(Debug)]
struct Missing {
    hash: ChunkHash,
    length: usize,
    offsets: Vec<u64>,
}

impl Missing {
    fn covers(&self) -> u64 {
        let places = u64::try_from(self.offsets.len()).unwrap_or(u64::MAX);
        u64::try_from(self.length).unwrap_or(u64::MAX).saturating_mul(places)
    }
}

struct Scan {
    file: File,
    stats: FetchStats,
    missing: Vec<Missing>,
}

/// Opens the target and finds what is right on it; holes are made zero.
fn scan(image: &ImageIndex, path: &Path) -> Result<Scan, FetchError> {
    let failed = |source| FetchError::Target { path: path.to_path_buf(), source };
    let file = open_target(image, path)?;
    let mut stats = FetchStats { total_bytes: image.size, ..FetchStats::default() };
    let mut missing: Vec<Missing> = Vec::new();
    let mut index_of: HashMap<ChunkHash, usize> = HashMap::new();
    let mut buffer = Vec::new();
    for (offset, extent) in image.placed() {
        match extent {
            Extent::Hole { length } => {
                make_zero(&file, offset, length).map_err(failed)?;
                stats.hole_bytes += length;
                stats.done_bytes += length;
            }
            Extent::Chunk { hash, length, .. } => {
                buffer.resize(usize::try_from(length).expect("a chunk's length fits"), 0);
                file.read_exact_at(&mut buffer, offset).map_err(failed)?;
                if ChunkHash::of(&buffer) == hash {
                    stats.reused_bytes += u64::from(length);
                    stats.done_bytes += u64::from(length);
                } else if let Some(at) = index_of.get(&hash) {
                    missing[*at].offsets.push(offset);
                } else {
                    index_of.insert(hash, missing.len());
                    missing.push(Missing { hash, length: buffer.len(), offsets: vec![offset] });
                }
            }
        }
    }
    Ok(Scan { file, stats, missing })
}

fn open_target(image: &ImageIndex, path: &Path) -> Result<File, FetchError> {
    let failed = |source| FetchError::Target { path: path.to_path_buf(), source };
    let is_device = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(!is_device)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    let mut size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    if !is_device && size < image.size {
        file.set_len(image.size).map_err(failed)?;
        size = image.size;
    }
    if size < image.size {
        let path = path.to_path_buf();
        return Err(FetchError::TargetSize { path, got: size, want: image.size });
    }
    Ok(file)
}

/// Makes a range zero, writing only where it is not (a thin volume stays thin).
fn make_zero(file: &File, offset: u64, length: u64) -> std::io::Result<()> {
    let zeros = vec![0; READ_BYTES];
    for_pieces(file, offset, length, |at, piece| {
        if piece.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        file.write_all_at(&zeros[..piece.len()], at)
    })
}

fn for_pieces(
    file: &File,
    offset: u64,
    length: u64,
    mut each: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = offset;
    let end = offset + length;
    while at < end {
        let size = usize::try_from(end - at).unwrap_or(READ_BYTES).min(READ_BYTES);
        file.read_exact_at(&mut buffer[..size], at)?;
        each(at, &buffer[..size])?;
        at += u64::try_from(size).expect("a buffer's length fits");
    }
    Ok(())
}

/// A source and how it has behaved.
struct Source<'a> {
    chunks: &'a dyn ChunkSource,
    bench: &'a Bench,
}

/// Leaves a source alone for a while after failures in a row, so that a dead peer does not cost its
/// time limit for each chunk.
#[derive(Debug, Default)]
struct Bench(Mutex<(u32, Option<Instant>)>);

impl Bench {
    fn is_benched(&self) -> bool {
        let (_, until) = *self.0.lock().expect("no thread panicked with it");
        until.is_some_and(|until| Instant::now() < until)
    }

    fn good(&self) {
        *self.0.lock().expect("no thread panicked with it") = (0, None);
    }

    /// Says whether this failure benched it.
    fn bad(&self, bench: Duration) -> bool {
        let mut state = self.0.lock().expect("no thread panicked with it");
        state.0 += 1;
        if state.0 < FAILURES_MAX {
            return false;
        }
        let was = state.1.is_some_and(|until| Instant::now() < until);
        state.1 = Some(Instant::now() + bench);
        !was
    }
}

struct Shared<'a> {
    stats: Mutex<FetchStats>,
    progress: Progress<'a>,
}

impl Shared<'_> {
    fn update(&self, change: impl FnOnce(&mut FetchStats)) {
        let stats = {
            let mut stats = self.stats.lock().expect("no thread panicked with it");
            change(&mut stats);
            *stats
        };
        (self.progress)(stats);
    }
}

/// Gets one chunk, unpacked and checked, from whichever source gives it.
async fn get_chunk(
    missing: &Missing,
    sources: &[Source<'_>],
    limits: &FetchLimits,
    state: &Shared<'_>,
) -> Result<Bytes, FetchError> {
    let mut reason = "there is no source".to_owned();
    let mut pause = limits.pause;
    for round in 0..limits.tries.max(1) {
        if round > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let all_benched = sources.iter().all(|source| source.bench.is_benched());
        for source in sources.iter().filter(|s| all_benched || !s.bench.is_benched()) {
            match ask(missing, source.chunks, state).await {
                Ok(bytes) => {
                    source.bench.good();
                    return Ok(bytes);
                }
                Err(Refusal::Missing(text)) => reason = text,
                Err(Refusal::Bad(text)) => {
                    state.update(|stats| stats.bad_answers += 1);
                    if source.bench.bad(limits.bench) {
                        let name = source.chunks.name();
                        tracing::warn!(source = name, reason = text, "chunk source left alone");
                    }
                    reason = text;
                }
            }
        }
    }
    Err(FetchError::Chunk { hash: missing.hash, reason })
}

enum Refusal {
    /// It has no such chunk: no fault.
    Missing(String),
    /// It failed or lied.
    Bad(String),
}

async fn ask(
    missing: &Missing,
    source: &dyn ChunkSource,
    state: &Shared<'_>,
) -> Result<Bytes, Refusal> {
    let count = |bytes: u64, chunks: u64| {
        state.update(|stats| match source.kind() {
            SourceKind::Peer => {
                stats.peer_bytes += bytes;
                stats.peer_chunks += chunks;
            }
            SourceKind::Wan => {
                stats.wan_bytes += bytes;
                stats.wan_chunks += chunks;
            }
        });
    };
    let packed = match source.get(&missing.hash, packed_bytes_max(missing.length)).await {
        Ok(packed) => packed,
        Err(err @ SourceError::Missing { .. }) => return Err(Refusal::Missing(err.to_string())),
        Err(err) => {
            count(err.wasted_bytes(), 0);
            return Err(Refusal::Bad(err.to_string()));
        }
    };
    let length = u64::try_from(packed.len()).unwrap_or(u64::MAX);
    match unpack(&missing.hash, missing.length, &packed) {
        Ok(bytes) => {
            count(length, 1);
            Ok(bytes)
        }
        Err(err) => {
            count(length, 0);
            Err(Refusal::Bad(format!("{}: {err}", source.name())))
        }
    }
}

async fn write_chunk(
    file: Arc<File>,
    missing: &Missing,
    bytes: Bytes,
    target: &Path,
) -> Result<(), FetchError> {
    let (offsets, path) = (missing.offsets.clone(), target.to_path_buf());
    blocking(move || {
        offsets
            .iter()
            .try_for_each(|offset| file.write_all_at(&bytes, *offset))
            .map_err(|source| FetchError::Target { path, source })
    })
    .await
}

/// Runs disk work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.expect("disk work does not panic")
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
