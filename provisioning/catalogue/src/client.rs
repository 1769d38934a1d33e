// SPDX-License-Identifier: Apache-2.0
//! The agent's side of the catalogue: which templates may be installed.
//!
//! Expiry blocks change, never what runs: [`Catalogue::manifest_for_install`] needs fresh metadata,
//! [`Catalogue::manifest_for_run`] only a manifest that was verified when it was fetched.

use crate::manifest::{Manifest, ManifestError};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use std::path::PathBuf;

/// Where metadata comes from and where it is kept.
#[derive(Debug, Clone)]
pub struct CatalogueConfig {
    /// Folder on the state partition (`/var/lib/forecourt/tuf`); made when missing.
    pub folder: PathBuf,
    /// Trusted root of the owner bundle (`tuf_root_json`).
    pub root_json: Vec<u8>,
    /// HQ base URLs, tried in order; metadata is below `catalogue/metadata/`.
    pub hq_urls: Vec<url::Url>,
    /// Client with TLS and certificate.
    pub http: reqwest::Client,
}

/// How old the metadata is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing has expired.
    Fresh,
    /// Expired, at most 30 days ago.
    Stale {
        /// Seconds since the first role expired.
        expired_s: u64,
    },
    /// Expired longer ago, or the root has.
    Expired {
        /// Seconds since the first role expired.
        expired_s: u64,
    },
    /// Never fetched.
    Unknown,
}

/// Why the catalogue refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The clock is not trusted yet, so nothing can be judged.
    #[error("the clock is not trusted yet")]
    ClockUntrusted,
    /// The folder cannot be used.
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// HQ cannot be reached.
    #[error("catalogue cannot be fetched from {url}")]
    Fetch {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Metadata is refused: bad signature, rollback, too long, malformed.
    #[error("catalogue metadata of {url} is refused")]
    Metadata {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Metadata has expired and the action is a change.
    #[error("catalogue metadata expired {expired_s} s ago, so nothing new is installed")]
    Expired { expired_s: u64 },
    /// The catalogue does not name it.
    #[error("the catalogue has no {template}")]
    NotInCatalogue { template: TemplateRef },
    /// Older than what is installed.
    #[error("{template} is older than version {installed}, which is installed")]
    Older { template: TemplateRef, installed: TemplateVersion },
    /// Below the revocation floor.
    #[error("{template} is withdrawn: {min_version} is the oldest version allowed")]
    Withdrawn { template: TemplateRef, min_version: u64 },
    /// The manifest's bytes are not the signed ones.
    #[error("manifest of {template} is refused: {reason}")]
    Manifest { template: TemplateRef, reason: String },
    /// The manifest's content is out of bounds.
    #[error("manifest of {template} is refused")]
    ManifestContent {
        template: TemplateRef,
        #[source]
        source: ManifestError,
    },
}

/// The catalogue as this server has verified it.
#[derive(Debug)]
pub struct Catalogue {
    config: CatalogueConfig,
}

impl Catalogue {
    /// Opens the catalogue from what was verified before; needs no network and no clock.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn open(config: CatalogueConfig) -> Result<Self, ClientError> {
        todo!()
    }

    /// Fetches and verifies new metadata. Call it only when the clock is trusted. On an error the
    /// catalogue verified before stays in force.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn refresh(&mut self) -> Result<(), ClientError> {
        todo!()
    }

    /// How old the metadata in force is, by this clock.
    #[must_use]
    pub fn freshness(&self, now: jiff::Timestamp) -> Freshness {
        todo!()
    }

    /// The manifest of a version to install or upgrade to: fresh metadata must name it, and it may
    /// not be older than `installed` nor below the revocation floor. Fetched from HQ unless it is
    /// kept here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn manifest_for_install(
        &self,
        template: &TemplateRef,
        installed: Option<TemplateVersion>,
        now: jiff::Timestamp,
    ) -> Result<Manifest, ClientError> {
        todo!()
    }

    /// The manifest of a version already installed: from the folder, whatever has expired.
    ///
    /// # Errors
    /// [`ClientError::NotInCatalogue`] if it was never verified here.
    pub fn manifest_for_run(&self, template: &TemplateRef) -> Result<Manifest, ClientError> {
        todo!()
    }
}
