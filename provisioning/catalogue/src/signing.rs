// SPDX-License-Identifier: Apache-2.0
//! Offline signing: `root.json` and `targets.json`.

use crate::keys::{KeyError, OfflineKeys, OnlinePublicKeys};
use crate::manifest::Manifest;
use jiff::Timestamp;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key cannot be used.
    #[error("signing key cannot be used")]
    Key(#[source] KeyError),
    /// Signing or checking failed in the TUF library.
    #[error("{operation} failed")]
    Tuf {
        operation: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The catalogue to add to is not signed by our keys, or is damaged.
    #[error("the present targets.json is refused: {reason}")]
    Current { reason: String },
    /// That version is published already with other content, or is not newer.
    #[error("{template} cannot be added: {reason}")]
    Refused { template: String, reason: String },
}

/// What `targets.json` says about one template version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Name and version.
    pub template: provisioning_protocol::template::TemplateRef,
    /// Oldest version that may still be installed.
    pub min_version: u64,
    /// Manifest length, bytes.
    pub length: u64,
    /// Manifest SHA-256, hex.
    pub sha256: String,
}

/// Makes the first `root.json` (version 1, threshold 1, expires in a year): root and targets by the
/// offline keys, snapshot and timestamp by HQ's.
///
/// # Errors
/// [`SigningError`].
pub async fn create_root(
    keys: &OfflineKeys,
    online: &OnlinePublicKeys,
    now: Timestamp,
) -> Result<Vec<u8>, SigningError> {
    todo!()
}

/// Adds manifests to a catalogue and signs the new `targets.json`. `current` is the catalogue as HQ
/// has it (`None` for the first); it is checked against `root` before anything is built on it.
///
/// # Errors
/// [`SigningError`]; a version that is not newer than every published one of its template is refused.
pub async fn sign_targets(
    keys: &OfflineKeys,
    root: &[u8],
    current: Option<&[u8]>,
    add: &[Manifest],
    now: Timestamp,
) -> Result<Vec<u8>, SigningError> {
    todo!()
}

/// Lists a `targets.json` after checking it against `root`.
///
/// # Errors
/// [`SigningError`].
pub fn list_targets(root: &[u8], targets: &[u8]) -> Result<Vec<CatalogueEntry>, SigningError> {
    todo!()
}
