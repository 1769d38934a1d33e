// SPDX-License-Identifier: Apache-2.0
//! From a template's name to a sealed volume.
//!
//! ```text
//! metadata fresh? ─► manifest ─► volume ─► chunks: peer if it has or will have them, else HQ
//!                                             └► whole image verified ─► sealed ─► floor raised
//! ```
//! Each byte crosses the WAN once a site: server A fetches from HQ; server B waits for A's
//! chunks, and goes to HQ itself only if A is not heard of for a minute.

use super::counters::Ledger;
use super::peer_source::{PatientPeer, PeerShelf};
use crate::durable::file::FileError;
use crate::hq::tls::TlsMemory;
use crate::peer::chunks::Shelf;
use crate::status::Hub;
use async_trait::async_trait;
use hypervisor_glue::GlueError;
use hypervisor_glue::volumes::Volumes;
use provisioning_catalogue::client::{Catalogue, ClientError};
use provisioning_catalogue::fetch::{
    FetchError, FetchLimits, FetchStats, fetch_image, verify_image,
};
use provisioning_catalogue::manifest::Manifest;
use provisioning_catalogue::source::ChunkSource;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::template::TemplateRef;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// How long the second server waits for the first before it uses the WAN itself.
const PEER_STALL: Duration = Duration::from_secs(60);
const PEER_POLL: Duration = Duration::from_millis(500);

/// Why a template is not here yet.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The catalogue refuses it, or cannot be asked.
    #[error(transparent)]
    Catalogue(#[from] ClientError),
    /// Signatures expire, and the time is not known.
    #[error("The clock is not trusted yet; it will be set when HQ answers")]
    Clock,
    /// Bytes could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] GlueError),
    /// The floor could not be kept.
    #[error("Cannot keep the installed version")]
    Floor(#[from] FileError),
}

/// Hears of progress, in words.
pub type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Where whoever makes VMs gets their templates.
#[async_trait]
pub trait Templates: Send + Sync {
    /// The manifest of a template whose volume is sealed here; needs no network.
    ///
    /// # Errors
    /// [`InstallError::Catalogue`].
    async fn installed(&self, template: &TemplateRef) -> Result<Manifest, InstallError>;

    /// Makes sure the template is whole on this server. `tell` hears the progress in words.
    ///
    /// # Errors
    /// [`InstallError`]; what was fetched stays, and the next call goes on from there.
    async fn install(
        &self,
        template: &TemplateRef,
        tell: Tell<'_>,
    ) -> Result<Manifest, InstallError>;
}

/// Installs templates.
pub struct Installer {
    /// This server's place: decides who goes to HQ.
    pub slot: NodeSlot,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// Verified metadata.
    pub catalogue: tokio::sync::Mutex<Catalogue>,
    /// Floors and counters.
    pub ledger: Mutex<Ledger>,
    /// What the peer may have from us.
    pub shelf: Shelf,
    /// What we may have from the peer.
    pub peer: PeerShelf,
    /// HQ's chunks.
    pub hq: Arc<dyn ChunkSource>,
    /// Whether the clock counts.
    pub memory: Arc<TlsMemory>,
    /// Status.
    pub hub: Arc<Hub>,
}

#[async_trait]
impl Templates for Installer {
    async fn installed(&self, template: &TemplateRef) -> Result<Manifest, InstallError> {
        Ok(self.catalogue.lock().await.manifest_for_run(template)?)
    }

    async fn install(
        &self,
        template: &TemplateRef,
        tell: Tell<'_>,
    ) -> Result<Manifest, InstallError> {
        let known = self.volumes.templates().await?;
        if known.iter().any(|volume| volume.sealed && volume.template == *template) {
            let manifest = self.installed(template).await?;
            self.offer(template, &manifest).await?;
            return Ok(manifest);
        }
        tell("asking the catalogue");
        let manifest = self.fresh_manifest(template).await?;
        let image = manifest.system_image();
        let volume = self.volumes.create_template(template, image.size).await?;
        let sources = self.sources(template, tell).await;
        let from_wan = sources.len() == 1;
        if from_wan {
            // Only then: two servers must never wait for each other's chunks.
            self.shelf.put(template, &volume.path, image, false);
        }
        let before = self.ledger().counters;
        let last = Mutex::new(FetchStats::default());
        let progress = |stats: FetchStats| {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = stats;
            self.hub.note(|state| {
                state.wan_bytes = before.wan_bytes + stats.wan_bytes;
                state.peer_bytes = before.peer_bytes + stats.peer_bytes;
            });
            tell(&words(&stats));
        };
        let limits = FetchLimits::default();
        let fetched = fetch_image(image, &sources, &volume.path, &limits, &progress).await;
        let spent = *last.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = fetched.as_ref().map_or(spent, |stats| *stats);
        self.ledger().count(spent.wan_bytes, spent.peer_bytes);
        fetched?;
        tell("checking the whole image");
        verify_image(image, &volume.path).await?;
        self.volumes.seal_template(template).await?;
        self.ledger().installed(template)?;
        self.shelf.put(template, &volume.path, image, true);
        let counters = self.ledger().counters;
        let whole = self.shelf.whole();
        self.hub.update(|state| {
            state.wan_bytes = counters.wan_bytes;
            state.peer_bytes = counters.peer_bytes;
            state.templates = whole;
        });
        self.hub.event("template_ready", summary(template, &spent));
        Ok(manifest)
    }
}

impl Installer {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fresh_manifest(&self, template: &TemplateRef) -> Result<Manifest, InstallError> {
        if !self.memory.clock_trusted() {
            return Err(InstallError::Clock);
        }
        let floor = self.ledger().floor(&template.name);
        let mut catalogue = self.catalogue.lock().await;
        let now = jiff::Timestamp::now();
        // What was verified before may do; if it does not name the template, ask HQ.
        if let Ok(manifest) = catalogue.manifest_for_install(template, floor, now).await {
            return Ok(manifest);
        }
        catalogue.refresh().await?;
        Ok(catalogue.manifest_for_install(template, floor, jiff::Timestamp::now()).await?)
    }

    /// The peer and HQ, or HQ alone.
    async fn sources(&self, template: &TemplateRef, tell: Tell<'_>) -> Vec<Arc<dyn ChunkSource>> {
        let began = Instant::now();
        loop {
            if let Ok(Some(whole)) = self.peer.offers(template).await {
                tracing::info!(%template, whole, "copying from the peer");
                let peer = PatientPeer::new(self.peer.clone(), PEER_STALL);
                return vec![peer, self.hq.clone()];
            }
            if self.slot == NodeSlot::A || began.elapsed() >= PEER_STALL {
                tracing::info!(%template, "fetching from HQ");
                return vec![self.hq.clone()];
            }
            tell("waiting for the other server to fetch it");
            tokio::time::sleep(PEER_POLL).await;
        }
    }

    async fn offer(&self, template: &TemplateRef, manifest: &Manifest) -> Result<(), GlueError> {
        if self.shelf.whole().contains(template) {
            return Ok(());
        }
        let volumes = self.volumes.templates().await?;
        if let Some(volume) = volumes.iter().find(|volume| volume.template == *template) {
            self.shelf.put(template, &volume.path, manifest.system_image(), true);
            let whole = self.shelf.whole();
            self.hub.update(|state| state.templates = whole);
        }
        Ok(())
    }
}

fn words(stats: &FetchStats) -> String {
    let percent = (stats.done_bytes * 100).checked_div(stats.total_bytes).unwrap_or(100);
    let from = match (stats.peer_bytes, stats.wan_bytes) {
        (0, _) => "HQ",
        (_, 0) => "the other server",
        _ => "the other server and HQ",
    };
    format!("{percent} % fetched from {from}")
}

fn summary(template: &TemplateRef, stats: &FetchStats) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    format!(
        "template {template} is whole and verified: {} MiB from HQ, {} MiB from the other server",
        mib(stats.wan_bytes),
        mib(stats.peer_bytes)
    )
}
