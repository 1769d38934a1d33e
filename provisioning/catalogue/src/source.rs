// SPDX-License-Identifier: Apache-2.0
//! Where chunks come from, and the bounded GET everything here is fetched with.

use crate::chunks::ChunkHash;
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// No byte for this long: the source has stalled.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Longest a chunk may take. Eight in flight at 8 KiB/s need 128 s for 128 KiB each: slower is a
/// source that only pretends to serve.
pub const CHUNK_TIME_MAX: Duration = Duration::from_secs(130);

/// Which purse the bytes are paid from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// The other server of the pair: free.
    Peer,
    /// HQ or a mirror: the WAN.
    Wan,
}

/// Why a source did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It has no such thing.
    #[error("{name} does not have it")]
    Missing {
        /// The source.
        name: String,
    },
    /// It cannot be reached, or broke off.
    #[error("{name} broke off after {got} bytes")]
    Broken {
        /// The source.
        name: String,
        /// Bytes received and thrown away.
        got: u64,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was too slow.
    #[error("{name} gave {got} bytes in {waited_ms} ms")]
    Stalled {
        /// The source.
        name: String,
        /// Bytes received and thrown away.
        got: u64,
        /// Time it was given.
        waited_ms: u128,
    },
    /// It sent more than what was asked for can be.
    #[error("{name} sent more than the {max} bytes asked for")]
    TooLong {
        /// The source.
        name: String,
        /// Most that was asked for.
        max: usize,
    },
    /// It answered with an error.
    #[error("{name} answered HTTP {status}")]
    Status {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
}

impl SourceError {
    /// Bytes received and thrown away: they were paid for.
    #[must_use]
    pub fn wasted_bytes(&self) -> u64 {
        match self {
            Self::Broken { got, .. } | Self::Stalled { got, .. } => *got,
            Self::TooLong { max, .. } => u64::try_from(*max).unwrap_or(u64::MAX),
            Self::Missing { .. } | Self::Status { .. } => 0,
        }
    }
}

/// A place that serves packed chunks. Untrusted: what it gives is checked.
#[async_trait::async_trait]
pub trait ChunkSource: Send + Sync {
    /// Name for messages, such as `peer` or `hq`.
    fn name(&self) -> &str;
    /// Peer or WAN.
    fn kind(&self) -> SourceKind;
    /// The packed chunk, at most `max_len` bytes.
    ///
    /// # Errors
    /// [`SourceError`].
    async fn get(&self, hash: &ChunkHash, max_len: usize) -> Result<Bytes, SourceError>;
}

/// Chunks over HTTP: HQ at `BASE/ab/abcdef…`, the peer at `BASE/abcdef…`.
#[derive(Debug, Clone)]
pub struct HttpChunks {
    kind: SourceKind,
    base: String,
    get: Get,
}

impl HttpChunks {
    /// HQ's store; `base` is `https://HQ/chunks`. The client carries TLS and certificate.
    #[must_use]
    pub fn hq(base: url::Url, http: reqwest::Client) -> Self {
        Self::new("hq", SourceKind::Wan, &base, http)
    }

    /// The peer's sealed images; `base` is `http://[fd46:…::a]:7412/chunks`.
    #[must_use]
    pub fn peer(base: url::Url, http: reqwest::Client) -> Self {
        Self::new("peer", SourceKind::Peer, &base, http)
    }

    fn new(name: &str, kind: SourceKind, base: &url::Url, http: reqwest::Client) -> Self {
        let base = base.as_str().trim_end_matches('/').to_owned();
        let get = Get { name: name.into(), http, patience: PATIENCE, total: CHUNK_TIME_MAX };
        Self { kind, base, get }
    }

    /// Gives up when no byte came for this long ([`PATIENCE`] if not set).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.get.patience = patience;
        self
    }

    /// Gives up when a chunk is not whole after this long ([`CHUNK_TIME_MAX`] if not set).
    #[must_use]
    pub fn chunk_time_max(mut self, total: Duration) -> Self {
        self.get.total = total;
        self
    }
}

#[async_trait::async_trait]
impl ChunkSource for HttpChunks {
    fn name(&self) -> &str {
        &self.get.name
    }

    fn kind(&self) -> SourceKind {
        self.kind
    }

    async fn get(&self, hash: &ChunkHash, max_len: usize) -> Result<Bytes, SourceError> {
        let path = match self.kind {
            SourceKind::Wan => hash.path(),
            SourceKind::Peer => hash.to_string(),
        };
        self.get.bytes(&format!("{}/{path}", self.base), max_len).await
    }
}

/// A GET that is bounded in bytes and in time.
#[derive(Debug, Clone)]
pub(crate) struct Get {
    pub(crate) name: String,
    pub(crate) http: reqwest::Client,
    pub(crate) patience: Duration,
    pub(crate) total: Duration,
}

impl Get {
    pub(crate) async fn bytes(&self, url: &str, max: usize) -> Result<Bytes, SourceError> {
        let start = Instant::now();
        let mut got = BytesMut::new();
        let response = self.within(start, 0, self.http.get(url).send()).await?;
        let mut response = match response.status().as_u16() {
            200 => response,
            404 => return Err(SourceError::Missing { name: self.name.clone() }),
            status => return Err(SourceError::Status { name: self.name.clone(), status }),
        };
        while let Some(piece) = self.within(start, got.len(), response.chunk()).await? {
            if got.len() + piece.len() > max {
                return Err(SourceError::TooLong { name: self.name.clone(), max });
            }
            got.extend_from_slice(&piece);
        }
        Ok(got.freeze())
    }

    /// One step, within our patience and what is left of the total.
    async fn within<T>(
        &self,
        start: Instant,
        got: usize,
        step: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, SourceError> {
        let name = || self.name.clone();
        let got = u64::try_from(got).unwrap_or(u64::MAX);
        let left = self.total.saturating_sub(start.elapsed()).min(self.patience);
        match tokio::time::timeout(left, step).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(err)) => {
                Err(SourceError::Broken { name: name(), got, source: Box::new(err.without_url()) })
            }
            Err(_) => {
                let waited_ms = start.elapsed().as_millis();
                Err(SourceError::Stalled { name: name(), got, waited_ms })
            }
        }
    }
}
