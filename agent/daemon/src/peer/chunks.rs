// SPDX-License-Identifier: Apache-2.0
//! Template chunks for the peer: `GET /chunks/HEX` and `GET /templates`, inside the tunnels.
//!
//! A template that is still being fetched is served as far as it has come: 503 means "ask again".
//! What is read is compared with its hash before it is sent, and the peer checks it again.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use provisioning_catalogue::chunks::ChunkHash;
use provisioning_catalogue::local::LocalChunks;
use provisioning_catalogue::manifest::ImageIndex;
use provisioning_protocol::template::TemplateRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path as FsPath;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Chunks read from disk at once: the peer asks for eight, the disk also serves VMs.
const READS_MAX: usize = 8;
const BIND_RETRY: Duration = Duration::from_millis(500);

/// A template this server has, whole or in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Which.
    pub template: TemplateRef,
    /// Whether it is whole and verified.
    pub whole: bool,
}

/// What is on offer.
#[derive(Debug, Clone)]
pub struct Shelf {
    chunks: Arc<RwLock<LocalChunks>>,
    offers: Arc<RwLock<BTreeMap<TemplateRef, bool>>>,
    reads: Arc<Semaphore>,
}

impl Default for Shelf {
    fn default() -> Self {
        let reads = Arc::new(Semaphore::new(READS_MAX));
        Self { chunks: Arc::default(), offers: Arc::default(), reads }
    }
}

impl Shelf {
    /// Offers a template's image, whole or growing.
    pub fn put(&self, template: &TemplateRef, volume: &FsPath, image: &ImageIndex, whole: bool) {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner).add(volume, image);
        let mut offers = self.offers.write().unwrap_or_else(PoisonError::into_inner);
        offers.insert(template.clone(), whole);
    }

    /// Templates whole on this server.
    #[must_use]
    pub fn whole(&self) -> Vec<TemplateRef> {
        let offers = self.offers.read().unwrap_or_else(PoisonError::into_inner);
        offers.iter().filter(|(_, whole)| **whole).map(|(t, _)| t.clone()).collect()
    }

    fn offers(&self) -> Vec<Offer> {
        let offers = self.offers.read().unwrap_or_else(PoisonError::into_inner);
        offers.iter().map(|(t, whole)| Offer { template: t.clone(), whole: *whole }).collect()
    }

    fn growing(&self) -> bool {
        self.offers().iter().any(|offer| !offer.whole)
    }

    /// The HTTP service.
    pub fn routes(&self) -> Router {
        Router::new()
            .route(
                "/templates",
                get(|State(shelf): State<Self>| async move { Json(shelf.offers()) }),
            )
            .route("/chunks/{hash}", get(chunk))
            .with_state(self.clone())
    }

    /// Serves on one address; waits for the address to appear.
    pub async fn serve(self, at: SocketAddr) {
        let listener = loop {
            match TcpListener::bind(at).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(BIND_RETRY).await,
            }
        };
        tracing::info!(%at, "offering templates to the peer");
        if let Err(error) = axum::serve(listener, self.routes()).await {
            tracing::error!(%error, "no longer offering templates to the peer");
        }
    }
}

async fn chunk(State(shelf): State<Shelf>, Path(hash): Path<String>) -> Response {
    let Ok(hash) = ChunkHash::from_hex(&hash) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(_permit) = shelf.reads.clone().acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let chunks = shelf.chunks.clone();
    let read = tokio::task::spawn_blocking(move || {
        chunks.read().unwrap_or_else(PoisonError::into_inner).packed(&hash)
    });
    match read.await {
        Ok(Ok(Some(packed))) => packed.into_response(),
        Ok(Ok(None)) => StatusCode::NOT_FOUND.into_response(),
        Ok(Err(_)) | Err(_) if shelf.growing() => {
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response()
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "a template's chunk is damaged here");
            StatusCode::NOT_FOUND.into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
