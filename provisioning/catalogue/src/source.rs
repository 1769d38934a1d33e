// SPDX-License-Identifier: Apache-2.0
//! Where chunks come from.

use crate::chunks::ChunkHash;
use bytes::Bytes;
use std::time::Duration;

/// Which purse the bytes are paid from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// The other server of the pair: free.
    Peer,
    /// HQ or a mirror: the WAN.
    Wan,
}

/// Why a source did not give a chunk.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It has no such chunk.
    #[error("{source_name} does not have it")]
    Missing { source_name: String },
    /// It cannot be reached, or broke off.
    #[error("{source_name} broke off after {got} bytes")]
    Broken {
        source_name: String,
        got: u64,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was too slow.
    #[error("{source_name} gave {got} bytes in {waited_ms} ms")]
    Stalled { source_name: String, got: u64, waited_ms: u128 },
    /// It sent more than the chunk can be.
    #[error("{source_name} sent more than the {max} bytes asked for")]
    TooLong { source_name: String, max: usize },
    /// It answered with an error.
    #[error("{source_name} answered HTTP {status}")]
    Status { source_name: String, status: u16 },
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
    name: String,
    kind: SourceKind,
    base: url::Url,
    http: reqwest::Client,
    patience: Duration,
}

impl HttpChunks {
    /// HQ's store; `base` is `https://HQ/chunks`. The client carries TLS and certificate.
    #[must_use]
    pub fn hq(base: url::Url, http: reqwest::Client) -> Self {
        todo!()
    }

    /// The peer's sealed images; `base` is `http://[fd46:…::a]:7412/chunks`.
    #[must_use]
    pub fn peer(base: url::Url, http: reqwest::Client) -> Self {
        todo!()
    }

    /// Gives up when no byte came for this long (10 s if not set).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
