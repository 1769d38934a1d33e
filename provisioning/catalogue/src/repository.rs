// SPDX-License-Identifier: Apache-2.0
//! HQ's side of the catalogue: a folder of static files, changed only by verified uploads.
//!
//! ```text
//! FOLDER/metadata/{1.root.json, N.targets.json, N.snapshot.json, timestamp.json}
//! FOLDER/targets/tpl/NAME/SHA256.VERSION.json
//! FOLDER/chunks/ab/abcdef…
//! ```
//!
//! Order of a publication: chunks, manifests, then `targets.json`, which is refused while anything
//! it names is missing. An interrupted one leaves unnamed files and the old catalogue.

use crate::chunks::{ChunkHash, ChunkStore};
use crate::keys::OnlineKeys;
use crate::manifest::Manifest;
use crate::signing::CatalogueEntry;
use jiff::Timestamp;
use provisioning_protocol::template::TemplateRef;
use std::path::{Path, PathBuf};

/// Why the repository refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No `root.json` has been uploaded.
    #[error("no root.json has been uploaded yet")]
    NoRoot,
    /// The upload is not acceptable: an operator's or an attacker's fault, HTTP 422.
    #[error("{what} is refused: {reason}")]
    Refused { what: String, reason: String },
    /// A file of the repository cannot be read or written: HTTP 500.
    #[error("{path} cannot be used")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The online keys cannot sign.
    #[error("{operation} failed")]
    Sign {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The repository. Share it in an `Arc`; publications are serialised inside.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    keys: OnlineKeys,
    chunks: ChunkStore,
}

impl Repository {
    /// Opens or makes the repository in a folder.
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub fn open(folder: &Path, keys: OnlineKeys) -> Result<Self, RepositoryError> {
        todo!()
    }

    /// Takes the first root (self-signed, must name our online keys), or the next one (signed by the
    /// one before), and publishes an empty catalogue if there is none... see `publish`.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`].
    pub async fn put_root(&self, root: &[u8], now: Timestamp) -> Result<(), RepositoryError> {
        todo!()
    }

    /// The newest root, for the owner bundle.
    ///
    /// # Errors
    /// [`RepositoryError::NoRoot`].
    pub fn root(&self) -> Result<Vec<u8>, RepositoryError> {
        todo!()
    }

    /// The published `targets.json`, if any (the CLI signs on top of it).
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub fn targets(&self) -> Result<Option<Vec<u8>>, RepositoryError> {
        todo!()
    }

    /// The store behind `/chunks/…`.
    #[must_use]
    pub fn chunks(&self) -> &ChunkStore {
        &self.chunks
    }

    /// Takes an uploaded manifest and says which of its chunks are missing.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if it is malformed.
    pub fn put_manifest(&self, bytes: &[u8]) -> Result<Vec<ChunkHash>, RepositoryError> {
        todo!()
    }

    /// Verifies a new `targets.json` against the root and publishes it with fresh snapshot and
    /// timestamp.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if it is not newer, not signed, or names what is not here.
    pub async fn publish(
        &self,
        targets: &[u8],
        now: Timestamp,
    ) -> Result<Vec<CatalogueEntry>, RepositoryError> {
        todo!()
    }

    /// Signs snapshot (30 days) and timestamp (7 days) anew when older than a day; call it hourly.
    /// Says whether it did.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn refresh(&self, now: Timestamp) -> Result<bool, RepositoryError> {
        todo!()
    }

    /// Published versions.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn entries(&self) -> Result<Vec<CatalogueEntry>, RepositoryError> {
        todo!()
    }

    /// A published manifest.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if it is not published.
    pub fn manifest(&self, template: &TemplateRef) -> Result<Manifest, RepositoryError> {
        todo!()
    }

    /// File behind `GET /catalogue/metadata/FILE`; `None` (404) for any name that is not metadata.
    #[must_use]
    pub fn metadata_file(&self, name: &str) -> Option<PathBuf> {
        todo!()
    }

    /// File behind `GET /catalogue/targets/{*path}` (`tpl/NAME/SHA256.VERSION.json`).
    #[must_use]
    pub fn target_file(&self, path: &str) -> Option<PathBuf> {
        todo!()
    }

    /// File behind `GET /chunks/{*path}` (`ab/abcdef…`).
    #[must_use]
    pub fn chunk_file(&self, path: &str) -> Option<PathBuf> {
        todo!()
    }
}
