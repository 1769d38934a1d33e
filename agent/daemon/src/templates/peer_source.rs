// SPDX-License-Identifier: Apache-2.0
//! The peer as a source of chunks: patient, because it may be fetching the same template.

use crate::peer::chunks::Offer;
use async_trait::async_trait;
use bytes::Bytes;
use provisioning_catalogue::chunks::ChunkHash;
use provisioning_catalogue::source::{ChunkSource, SourceError, SourceKind};
use provisioning_protocol::template::TemplateRef;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Longest list of templates a peer may offer: some hundred bytes each.
const OFFERS_BYTES_MAX: usize = 256 * 1024;
const ASK_LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(300);

/// Where the peer may be asked: one base address for each path.
#[derive(Debug, Clone)]
pub struct PeerShelf {
    http: reqwest::Client,
    bases: Vec<String>,
}

impl PeerShelf {
    /// A plain HTTP client: the tunnels encrypt and authenticate.
    #[must_use]
    pub fn new(http: reqwest::Client, bases: Vec<String>) -> Self {
        Self { http, bases }
    }

    /// What the peer says of a template: `Some(whole)`, or `None` if it has none of it; an error
    /// if it cannot be asked.
    ///
    /// # Errors
    /// The base addresses all failed.
    pub async fn offers(&self, template: &TemplateRef) -> Result<Option<bool>, Unheard> {
        for base in &self.bases {
            if let Some(offers) = self.offered(base).await {
                return Ok(offers.iter().find(|o| o.template == *template).map(|o| o.whole));
            }
        }
        Err(Unheard)
    }

    /// The peer's whole list, if it is one and no longer than it may be.
    async fn offered(&self, base: &str) -> Option<Vec<Offer>> {
        let request = self.http.get(format!("{base}/templates")).timeout(ASK_LIMIT);
        let mut answer = request.send().await.ok()?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.ok()? {
            if body.len() + part.len() > OFFERS_BYTES_MAX {
                return None;
            }
            body.extend_from_slice(&part);
        }
        serde_json::from_slice(&body).ok()
    }

    async fn chunk(&self, hash: &ChunkHash, max: usize) -> Result<Bytes, SourceError> {
        let mut last = missing();
        for base in &self.bases {
            match self.ask_base(base, hash, max).await {
                Ok(bytes) => return Ok(bytes),
                Err(err) => last = err,
            }
        }
        Err(last)
    }

    async fn ask_base(
        &self,
        base: &str,
        hash: &ChunkHash,
        max: usize,
    ) -> Result<Bytes, SourceError> {
        let broken = |got: usize| {
            move |err: reqwest::Error| SourceError::Broken {
                name: "peer".into(),
                got: got as u64,
                source: err.into(),
            }
        };
        let request = self.http.get(format!("{base}/chunks/{hash}")).timeout(ASK_LIMIT * 3);
        let mut answer = request.send().await.map_err(broken(0))?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Err(missing()),
            status => return Err(SourceError::Status { name: "peer".into(), status }),
        }
        let mut bytes = bytes::BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(broken(bytes.len()))? {
            if bytes.len() + part.len() > max {
                return Err(SourceError::TooLong { name: "peer".into(), max });
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.freeze())
    }
}

fn missing() -> SourceError {
    SourceError::Missing { name: "peer".into() }
}

/// The peer did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not answer")]
pub struct Unheard;

/// Waits for chunks the peer does not have yet, as long as it makes progress.
#[derive(Debug)]
pub struct PatientPeer {
    shelf: PeerShelf,
    stall: Duration,
    progress: Mutex<Instant>,
}

impl PatientPeer {
    /// Gives up on a chunk once no chunk at all has come for `stall`.
    #[must_use]
    pub fn new(shelf: PeerShelf, stall: Duration) -> Arc<Self> {
        Arc::new(Self { shelf, stall, progress: Mutex::new(Instant::now()) })
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ChunkSource for PatientPeer {
    fn name(&self) -> &str {
        "peer"
    }

    fn kind(&self) -> SourceKind {
        SourceKind::Peer
    }

    async fn get(&self, hash: &ChunkHash, max_len: usize) -> Result<Bytes, SourceError> {
        loop {
            match self.shelf.chunk(hash, max_len).await {
                Ok(bytes) => {
                    *self.progress() = Instant::now();
                    return Ok(bytes);
                }
                Err(err) if self.progress().elapsed() >= self.stall => return Err(err),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
