// SPDX-License-Identifier: Apache-2.0
//! The agent's side of the catalogue: which templates may be installed.
//!
//! Expiry blocks change, never what runs: [`Catalogue::manifest_for_install`] needs fresh metadata,
//! [`Catalogue::manifest_for_run`] only a manifest that was verified when it was fetched.
//!
//! ```text
//! FOLDER/verified.json        the set of metadata in force: root, timestamp, snapshot, targets
//! FOLDER/manifests/NAME@VERSION.SHA256.json
//! FOLDER/work/                the TUF library's datastore, made anew from verified.json each time
//! ```
//!
//! The TUF library does the fetching and every rollback check. Its datastore is not kept: it is
//! written file by file (a power cut would leave a half) and remembers the clock, so that one boot
//! with a clock in the future would block it for good. `verified.json` is replaced in one step, and
//! only after a whole set was verified.

use crate::chunks::write_atomic;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
use crate::signing::{CatalogueEntry, ROOT_BYTES_MAX, TARGETS_BYTES_MAX, entries, verify};
use crate::source::{Get, PATIENCE, SourceError};
use jiff::{SignedDuration, Timestamp};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tough::schema::{Root, Signed, Snapshot, Targets, Timestamp as TimestampRole};
use tough::{RepositoryLoader, Transport, TransportError, TransportErrorKind, TransportStream};

/// Most new roots walked in one go: a server that slept for 30 years of half-yearly roots.
const ROOT_STEPS_MAX: u64 = 64;
/// Longest `timestamp.json`, bytes.
const TIMESTAMP_BYTES_MAX: u64 = 16 * 1024;
/// Longest `snapshot.json`, bytes.
const SNAPSHOT_BYTES_MAX: u64 = 256 * 1024;
/// Longest a metadata file may take.
const METADATA_TIME_MAX: Duration = Duration::from_secs(60);
/// Longest a manifest may take: 64 MiB at 64 KiB/s.
const MANIFEST_TIME_MAX: Duration = Duration::from_secs(1024);
/// How long stale metadata still lets a server put back what it had.
pub const STALE_DAYS_MAX: i64 = 30;

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
    /// Expired, at most [`STALE_DAYS_MAX`] days ago.
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
    /// The folder cannot be used.
    #[error("{path} cannot be used")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The root of the owner bundle is no root.
    #[error("the owner bundle's root.json is refused: {reason}")]
    Root {
        /// Why.
        reason: String,
    },
    /// HQ cannot be reached.
    #[error("the catalogue cannot be fetched from {url}")]
    Fetch {
        /// HQ's URL.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Metadata is refused: bad signature, rollback, expired, too long, malformed.
    #[error("the catalogue of {url} is refused")]
    Metadata {
        /// HQ's URL.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No metadata was ever verified here.
    #[error("no catalogue has been fetched yet")]
    Unknown,
    /// Metadata has expired and the action is a change.
    #[error("the catalogue expired {expired_s} s ago, so nothing new is installed")]
    Expired {
        /// Seconds since the first role expired.
        expired_s: u64,
    },
    /// The catalogue does not name it.
    #[error("the catalogue has no {template}")]
    NotInCatalogue {
        /// Name and version.
        template: TemplateRef,
    },
    /// Older than what is installed.
    #[error("{template} is older than version {installed}, which is installed")]
    Older {
        /// Name and version.
        template: TemplateRef,
        /// Version installed.
        installed: TemplateVersion,
    },
    /// Below the revocation floor.
    #[error("{template} is withdrawn: {min_version} is the oldest version allowed")]
    Withdrawn {
        /// Name and version.
        template: TemplateRef,
        /// The floor.
        min_version: u64,
    },
    /// The manifest's bytes are not the signed ones.
    #[error("the manifest of {template} is refused: {reason}")]
    Manifest {
        /// Name and version.
        template: TemplateRef,
        /// Why.
        reason: String,
    },
    /// The manifest's content is out of bounds.
    #[error("the manifest of {template} is refused")]
    ManifestContent {
        /// Name and version.
        template: TemplateRef,
        /// Why.
        source: ManifestError,
    },
}

/// A whole set of metadata that was verified together.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Verified {
    root: Signed<Root>,
    timestamp: Signed<TimestampRole>,
    snapshot: Signed<Snapshot>,
    targets: Signed<Targets>,
}

impl Verified {
    fn expires(&self) -> Timestamp {
        let Self { root, timestamp, snapshot, targets } = self;
        root.signed
            .expires
            .min(timestamp.signed.expires)
            .min(snapshot.signed.expires)
            .min(targets.signed.expires)
    }

    /// Whether the set hangs together under its own root.
    fn is_sound(&self) -> bool {
        let root = &self.root.signed;
        root.verify_role(&self.root).is_ok()
            && root.verify_role(&self.timestamp).is_ok()
            && root.verify_role(&self.snapshot).is_ok()
            && root.verify_role(&self.targets).is_ok()
            && entries(&self.targets.signed).is_ok()
    }
}

/// The catalogue as this server has verified it.
#[derive(Debug)]
pub struct Catalogue {
    config: CatalogueConfig,
    verified: Option<Verified>,
}

impl Catalogue {
    /// Opens the catalogue from what was verified before; needs no network and no clock.
    ///
    /// # Errors
    /// [`ClientError::Io`], or [`ClientError::Root`] if the bundle's root is none.
    pub async fn open(config: CatalogueConfig) -> Result<Self, ClientError> {
        make_folder(&config.folder.join("manifests"))?;
        let bundle: Signed<Root> = serde_json::from_slice(&config.root_json)
            .map_err(|err| ClientError::Root { reason: err.to_string() })?;
        verify("root.json", &bundle.signed, &bundle)
            .map_err(|err| ClientError::Root { reason: err.to_string() })?;
        let path = config.folder.join("verified.json");
        let verified = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok().filter(Verified::is_sound),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ClientError::Io { path, source }),
        };
        Ok(Self { config, verified })
    }

    /// Fetches and verifies new metadata. Call it only when the clock is trusted. On an error the
    /// catalogue verified before stays in force.
    ///
    /// # Errors
    /// [`ClientError`] of the first HQ that answered, or of the last that did not.
    pub async fn refresh(&mut self) -> Result<(), ClientError> {
        let mut unreachable = ClientError::Unknown;
        for base in self.config.hq_urls.clone() {
            match self.refresh_from(&base).await {
                Err(err @ ClientError::Fetch { .. }) => unreachable = err,
                other => return other,
            }
        }
        Err(unreachable)
    }

    /// How old the metadata in force is, by this clock.
    #[must_use]
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        let Some(verified) = &self.verified else { return Freshness::Unknown };
        let expired = now.duration_since(verified.expires());
        if expired.is_negative() {
            return Freshness::Fresh;
        }
        let expired_s = expired.as_secs().unsigned_abs();
        let stale = expired <= SignedDuration::from_hours(24 * STALE_DAYS_MAX);
        if stale && now < verified.root.signed.expires {
            Freshness::Stale { expired_s }
        } else {
            Freshness::Expired { expired_s }
        }
    }

    /// Every version the catalogue in force names.
    #[must_use]
    pub fn entries(&self) -> Vec<CatalogueEntry> {
        let targets = self.verified.as_ref().map(|verified| &verified.targets.signed);
        targets.and_then(|targets| entries(targets).ok()).unwrap_or_default()
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
        now: Timestamp,
    ) -> Result<Manifest, ClientError> {
        match self.freshness(now) {
            Freshness::Fresh => {}
            Freshness::Unknown => return Err(ClientError::Unknown),
            Freshness::Stale { expired_s } | Freshness::Expired { expired_s } => {
                return Err(ClientError::Expired { expired_s });
            }
        }
        let template = template.clone();
        if let Some(installed) = installed.filter(|installed| template.version < *installed) {
            return Err(ClientError::Older { template, installed });
        }
        let listed = self.entries();
        let same = || listed.iter().filter(|entry| entry.template.name == template.name);
        let Some(entry) = same().find(|entry| entry.template == template) else {
            return Err(ClientError::NotInCatalogue { template });
        };
        let min_version = same().map(|entry| entry.min_version).max().unwrap_or(1);
        if template.version.0 < min_version {
            return Err(ClientError::Withdrawn { template, min_version });
        }
        match self.kept(&template, Some(entry))? {
            Some(manifest) => Ok(manifest),
            None => self.fetch_manifest(entry).await,
        }
    }

    /// The manifest of a version already installed: from the folder, whatever has expired.
    ///
    /// # Errors
    /// [`ClientError::NotInCatalogue`] if it was never verified here.
    pub fn manifest_for_run(&self, template: &TemplateRef) -> Result<Manifest, ClientError> {
        let template = template.clone();
        self.kept(&template, None)?.ok_or(ClientError::NotInCatalogue { template })
    }

    /// Forgets the manifest of a version that is no longer installed.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub fn forget(&self, template: &TemplateRef) -> Result<(), ClientError> {
        for (path, _) in self.kept_files(template)? {
            std::fs::remove_file(&path).map_err(|source| ClientError::Io { path, source })?;
        }
        Ok(())
    }

    async fn refresh_from(&mut self, base: &url::Url) -> Result<(), ClientError> {
        let url = base.to_string();
        let refuse = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Metadata {
            url: url.clone(),
            source,
        };
        let below = |path: &str| {
            let base = base.as_str().trim_end_matches('/');
            url::Url::parse(&format!("{base}/{path}")).map_err(|err| refuse(Box::new(err)))
        };
        let work = self.make_datastore()?;
        let root = match &self.verified {
            Some(verified) => serde_json::to_vec(&verified.root).expect("metadata becomes JSON"),
            None => self.config.root_json.clone(),
        };
        let transport = HttpTransport::new(self.config.http.clone());
        let failure = Arc::clone(&transport.failure);
        let limits = tough::Limits {
            max_root_size: limit(ROOT_BYTES_MAX),
            max_targets_size: limit(TARGETS_BYTES_MAX),
            max_timestamp_size: TIMESTAMP_BYTES_MAX,
            max_snapshot_size: SNAPSHOT_BYTES_MAX,
            max_root_updates: ROOT_STEPS_MAX,
        };
        let metadata = below("catalogue/metadata/")?;
        let result = RepositoryLoader::new(&root, metadata, below("catalogue/targets/")?)
            .transport(transport)
            .limits(limits)
            .datastore(&work)
            .load()
            .await;
        // A failed transfer explains what the library made of it; a hidden root is no "no more roots".
        if let Some(err) = failure.lock().expect("no thread panicked with it").take() {
            return Err(ClientError::Fetch { url, source: Box::new(err) });
        }
        let repository = result.map_err(|err| refuse(Box::new(err)))?;
        let verified = Verified {
            root: repository.root().clone(),
            timestamp: repository.timestamp().clone(),
            snapshot: repository.snapshot().clone(),
            targets: repository.targets().clone(),
        };
        entries(&verified.targets.signed).map_err(|reason| refuse(reason.into()))?;
        let path = self.config.folder.join("verified.json");
        let bytes = serde_json::to_vec(&verified).expect("metadata becomes JSON");
        write_atomic(&self.config.folder, &path, &bytes)
            .map_err(|source| ClientError::Io { path, source })?;
        self.verified = Some(verified);
        Ok(())
    }

    /// A fresh datastore holding what was verified before.
    fn make_datastore(&self) -> Result<PathBuf, ClientError> {
        let work = self.config.folder.join("work");
        let io = |source| ClientError::Io { path: work.clone(), source };
        if work.exists() {
            std::fs::remove_dir_all(&work).map_err(io)?;
        }
        make_folder(&work)?;
        if let Some(verified) = &self.verified {
            let json = |value: &dyn erased::Json| value.json();
            let files = [
                ("root.json", json(&verified.root)),
                ("timestamp.json", json(&verified.timestamp)),
                ("snapshot.json", json(&verified.snapshot)),
                ("targets.json", json(&verified.targets)),
            ];
            for (name, bytes) in files {
                std::fs::write(work.join(name), bytes).map_err(io)?;
            }
        }
        Ok(work)
    }

    async fn fetch_manifest(&self, entry: &CatalogueEntry) -> Result<Manifest, ClientError> {
        let template = entry.template.clone();
        let refuse = |reason: String| ClientError::Manifest { template: template.clone(), reason };
        let max = usize::try_from(entry.length.min(MANIFEST_BYTES_MAX)).unwrap_or(usize::MAX);
        let mut failure = ClientError::Unknown;
        for base in &self.config.hq_urls {
            let base = base.as_str().trim_end_matches('/');
            let url = format!("{base}/catalogue/targets/{}", entry.file());
            let get = Get {
                name: "hq".into(),
                http: self.config.http.clone(),
                patience: PATIENCE,
                total: MANIFEST_TIME_MAX,
            };
            match get.bytes(&url, max).await {
                Ok(bytes) => return self.keep(entry, &bytes),
                Err(SourceError::TooLong { .. }) => {
                    failure = refuse(format!("longer than the {max} bytes signed"));
                }
                Err(err) => failure = ClientError::Fetch { url, source: Box::new(err) },
            }
        }
        Err(failure)
    }

    /// Checks fetched bytes against the signed entry, reads them and keeps them.
    fn keep(&self, entry: &CatalogueEntry, bytes: &[u8]) -> Result<Manifest, ClientError> {
        let manifest = check_manifest(entry, bytes)?;
        let folder = self.config.folder.join("manifests");
        let path = folder.join(format!("{}.{}.json", entry.template, entry.sha256));
        write_atomic(&folder, &path, bytes).map_err(|source| ClientError::Io { path, source })?;
        Ok(manifest)
    }

    /// A manifest kept here; with an `entry`, only the one it signs. A damaged file is as good as none.
    fn kept(
        &self,
        template: &TemplateRef,
        entry: Option<&CatalogueEntry>,
    ) -> Result<Option<Manifest>, ClientError> {
        for (path, sha256) in self.kept_files(template)? {
            if entry.is_some_and(|entry| entry.sha256 != sha256) {
                continue;
            }
            let bytes = std::fs::read(&path).map_err(|source| ClientError::Io { path, source })?;
            let manifest = (crate::keys::hex(&Sha256::digest(&bytes)) == sha256)
                .then(|| Manifest::from_json(&bytes).ok())
                .flatten()
                .filter(|manifest| manifest.template == *template);
            if manifest.is_some() {
                return Ok(manifest);
            }
        }
        Ok(None)
    }

    fn kept_files(&self, template: &TemplateRef) -> Result<Vec<(PathBuf, String)>, ClientError> {
        let folder = self.config.folder.join("manifests");
        let io = |source| ClientError::Io { path: folder.clone(), source };
        let mut files = Vec::new();
        for item in std::fs::read_dir(&folder).map_err(io)? {
            let item = item.map_err(io)?;
            let name = item.file_name();
            let sha256 = name
                .to_str()
                .and_then(|name| name.strip_prefix(&format!("{template}.")))
                .and_then(|rest| rest.strip_suffix(".json"));
            if let Some(sha256) = sha256 {
                files.push((item.path(), sha256.to_owned()));
            }
        }
        Ok(files)
    }
}

/// Whether these bytes are what the entry signs, and sound.
fn check_manifest(entry: &CatalogueEntry, bytes: &[u8]) -> Result<Manifest, ClientError> {
    let template = entry.template.clone();
    let refuse = |reason: &str| ClientError::Manifest {
        template: entry.template.clone(),
        reason: reason.to_owned(),
    };
    if u64::try_from(bytes.len()) != Ok(entry.length) {
        return Err(refuse("it has not the length that was signed"));
    }
    if crate::keys::hex(&Sha256::digest(bytes)) != entry.sha256 {
        return Err(refuse("it holds other bytes than were signed"));
    }
    let manifest = Manifest::from_json(bytes)
        .map_err(|source| ClientError::ManifestContent { template, source })?;
    if manifest.template != entry.template || manifest.min_version != entry.min_version {
        return Err(refuse("it is of another template or version"));
    }
    Ok(manifest)
}

fn make_folder(path: &Path) -> Result<(), ClientError> {
    std::fs::create_dir_all(path)
        .map_err(|source| ClientError::Io { path: path.to_path_buf(), source })
}

fn limit(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a limit fits")
}

/// Metadata as bytes, whatever its role.
mod erased {
    pub(super) trait Json {
        fn json(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> Vec<u8> {
            serde_json::to_vec(self).expect("metadata becomes JSON")
        }
    }
}

/// The TUF library's transport over our own client: bounded, and it remembers the first failure that
/// was no plain "there is no such file".
#[derive(Debug, Clone)]
struct HttpTransport {
    get: Get,
    failure: Arc<Mutex<Option<SourceError>>>,
}

impl HttpTransport {
    fn new(http: reqwest::Client) -> Self {
        let get = Get { name: "hq".into(), http, patience: PATIENCE, total: METADATA_TIME_MAX };
        Self { get, failure: Arc::new(Mutex::new(None)) }
    }
}

#[async_trait::async_trait]
impl Transport for HttpTransport {
    async fn fetch(&self, url: url::Url) -> Result<TransportStream, TransportError> {
        // One byte more than any limit, so that the library sees and names what is too long.
        match self.get.bytes(url.as_str(), TARGETS_BYTES_MAX + 1).await {
            Ok(bytes) => Ok(Box::pin(futures_util::stream::iter([Ok(bytes)]))),
            Err(SourceError::Missing { .. }) => {
                Err(TransportError::new(TransportErrorKind::FileNotFound, url))
            }
            Err(err) => {
                let text = err.to_string();
                let mut failure = self.failure.lock().expect("no thread panicked with it");
                failure.get_or_insert(err);
                Err(TransportError::new_with_cause(TransportErrorKind::Other, url, text))
            }
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
