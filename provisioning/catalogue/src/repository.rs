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
//! it names is missing. An interrupted one leaves files nothing names, and the old catalogue.
//! `timestamp.json` is written last and decides what is published. Roots are kept for ever: a server
//! years on a shelf walks from its root to the newest.

use crate::chunks::{ChunkError, ChunkHash, ChunkStore, write_atomic};
use crate::keys::{OnlineKeys, public_key, signer};
use crate::manifest::Manifest;
use crate::signing::{
    CatalogueEntry, SPEC_VERSION, SigningError, entries, parse, trusted_root, trusted_targets,
    verify,
};
use aws_lc_rs::rand::SystemRandom;
use jiff::{SignedDuration, Timestamp};
use provisioning_protocol::template::TemplateRef;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;
use tough::editor::signed::SignedRole;
use tough::schema::{
    Hashes, KeyHolder, Metafile, Role, RoleType, Root, Signed, Snapshot, Targets,
    Timestamp as TimestampRole,
};

/// Life of a snapshot.
pub const SNAPSHOT_DAYS: i64 = 30;
/// Life of a timestamp: how long a server believes an HQ it can no longer reach.
pub const TIMESTAMP_DAYS: i64 = 7;
/// Both are signed anew after this many hours.
pub const REFRESH_HOURS: i64 = 24;
/// Longest `snapshot.json` and `timestamp.json`, bytes.
const SMALL_BYTES_MAX: usize = 256 * 1024;

/// Why the repository refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// No `root.json` has been uploaded.
    #[error("no root.json has been uploaded yet")]
    NoRoot,
    /// The upload is not acceptable: an operator's or an attacker's fault, HTTP 422.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// What was uploaded or asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// A file of the repository cannot be read or written: HTTP 500.
    #[error("{path} cannot be used")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The online keys cannot sign.
    #[error("{operation} failed")]
    Sign {
        /// What was being done.
        operation: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn refused(what: impl Into<String>, reason: impl Into<String>) -> RepositoryError {
    RepositoryError::Refused { what: what.into(), reason: reason.into() }
}

fn sign_error<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    operation: &'static str,
) -> impl FnOnce(E) -> RepositoryError {
    move |source| RepositoryError::Sign { operation, source: source.into() }
}

/// What is wrong with an upload, or with our own files.
fn refusal(what: &str) -> impl FnOnce(SigningError) -> RepositoryError + '_ {
    move |err| match err {
        SigningError::Current { reason, .. } => refused(what, reason),
        other => refused(what, other.to_string()),
    }
}

/// The repository. Share it in an `Arc`; changes are serialised inside.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
    keys: OnlineKeys,
    chunks: ChunkStore,
    changing: Mutex<()>,
}

/// A root, and the bytes it was read from.
type RootFile = (Signed<Root>, Vec<u8>);

/// What is published now.
struct Published {
    timestamp: Signed<TimestampRole>,
    snapshot: Signed<Snapshot>,
    targets: Signed<Targets>,
    targets_bytes: Vec<u8>,
}

impl Repository {
    /// Opens or makes the repository in a folder.
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub fn open(folder: &Path, keys: OnlineKeys) -> Result<Self, RepositoryError> {
        let chunks = ChunkStore::open(&folder.join("chunks")).map_err(|err| match err {
            ChunkError::Io { path, source } => RepositoryError::Io { path, source },
            other => refused("chunk store", other.to_string()),
        })?;
        for part in ["metadata", "targets"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path)
                .map_err(|source| RepositoryError::Io { path, source })?;
        }
        Ok(Self { folder: folder.to_path_buf(), keys, chunks, changing: Mutex::new(()) })
    }

    /// Takes the first root (self-signed) or the next one (signed by the one before as well). Either
    /// must name our online keys, or we could publish nothing under it.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`].
    pub async fn put_root(&self, root: &[u8], now: Timestamp) -> Result<(), RepositoryError> {
        let _changing = self.changing.lock().await;
        let what = "root.json";
        let new = trusted_root(root).map_err(refusal(what))?;
        self.check_online_keys(&new.signed)?;
        if new.signed.expires <= now {
            return Err(refused(what, format!("it expired at {}", new.signed.expires)));
        }
        match self.newest_root()? {
            None if new.signed.version == NonZeroU64::MIN => {}
            None => return Err(refused(what, "the first root has version 1")),
            Some((_, bytes)) if bytes == root => return Ok(()),
            Some((old, _)) => {
                verify(what, &old.signed, &new).map_err(refusal(what))?;
                if new.signed.version.get() != old.signed.version.get() + 1 {
                    let want = old.signed.version.get() + 1;
                    return Err(refused(what, format!("the next root has version {want}")));
                }
            }
        }
        self.write(&format!("metadata/{}.root.json", new.signed.version), root)?;
        match self.published(&new)? {
            Some(published) => self.publish_signed(&new, published, now).await,
            None => Ok(()),
        }
    }

    /// The newest root, for the owner bundle.
    ///
    /// # Errors
    /// [`RepositoryError::NoRoot`].
    pub fn root(&self) -> Result<Vec<u8>, RepositoryError> {
        self.newest_root()?.map(|(_, bytes)| bytes).ok_or(RepositoryError::NoRoot)
    }

    /// The published `targets.json`, if any (the CLI signs on top of it).
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub fn targets(&self) -> Result<Option<Vec<u8>>, RepositoryError> {
        let Some((root, _)) = self.newest_root()? else { return Ok(None) };
        Ok(self.published(&root)?.map(|published| published.targets_bytes))
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
        let manifest =
            Manifest::from_json(bytes).map_err(|err| refused("manifest", error_text(&err)))?;
        let entry = CatalogueEntry::of(&manifest, bytes);
        self.write(&format!("targets/{}", entry.file()), bytes)?;
        Ok(self.missing(&manifest))
    }

    /// Verifies a new `targets.json` against the root and publishes it with fresh snapshot and
    /// timestamp. The same one again is accepted.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if it is not newer, not signed, or names what is not here.
    pub async fn publish(
        &self,
        targets: &[u8],
        now: Timestamp,
    ) -> Result<Vec<CatalogueEntry>, RepositoryError> {
        let _changing = self.changing.lock().await;
        let what = "targets.json";
        let (root, _) = self.newest_root()?.ok_or(RepositoryError::NoRoot)?;
        let new = trusted_targets(&root, targets).map_err(refusal(what))?;
        let listed = entries(&new.signed).map_err(|reason| refused(what, reason))?;
        if new.signed.expires <= now {
            return Err(refused(what, format!("it expired at {}", new.signed.expires)));
        }
        let old = self.published(&root)?;
        let mut known = BTreeSet::new();
        if let Some(old) = &old {
            if old.targets_bytes == targets {
                return Ok(listed);
            }
            if new.signed.version <= old.targets.signed.version {
                let reason = format!(
                    "version {} is not above {}, which is published",
                    new.signed.version, old.targets.signed.version
                );
                return Err(refused(what, reason));
            }
            let before = entries(&old.targets.signed).map_err(|reason| refused(what, reason))?;
            known.extend(before.into_iter().map(|entry| entry.sha256));
        }
        for entry in listed.iter().filter(|entry| !known.contains(&entry.sha256)) {
            let manifest = self.read_manifest(entry)?;
            let missing = self.missing(&manifest).len();
            if missing > 0 {
                let reason = format!("{missing} chunks are missing");
                return Err(refused(entry.template.to_string(), reason));
            }
        }
        self.write(&format!("metadata/{}.targets.json", new.signed.version), targets)?;
        let (snapshot_version, timestamp_version) = old.map_or((0, 0), |old| {
            (old.snapshot.signed.version.get(), old.timestamp.signed.version.get())
        });
        self.sign_online(&root, targets, &new, snapshot_version, timestamp_version, now).await?;
        Ok(listed)
    }

    /// Signs snapshot (30 days) and timestamp (7 days) anew when older than a day; call it hourly.
    /// Says whether it did.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn refresh(&self, now: Timestamp) -> Result<bool, RepositoryError> {
        let _changing = self.changing.lock().await;
        let Some((root, _)) = self.newest_root()? else { return Ok(false) };
        let Some(published) = self.published(&root)? else { return Ok(false) };
        let life = SignedDuration::from_hours(24 * TIMESTAMP_DAYS);
        let signed = published.timestamp.signed.expires - life;
        if now < signed + SignedDuration::from_hours(REFRESH_HOURS) {
            return Ok(false);
        }
        self.publish_signed(&root, published, now).await?;
        Ok(true)
    }

    /// Published versions.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn entries(&self) -> Result<Vec<CatalogueEntry>, RepositoryError> {
        let Some((root, _)) = self.newest_root()? else { return Ok(Vec::new()) };
        let Some(published) = self.published(&root)? else { return Ok(Vec::new()) };
        entries(&published.targets.signed).map_err(|reason| refused("targets.json", reason))
    }

    /// A published manifest.
    ///
    /// # Errors
    /// [`RepositoryError::Refused`] if it is not published.
    pub fn manifest(&self, template: &TemplateRef) -> Result<Manifest, RepositoryError> {
        let published = self.entries()?;
        let entry = published.iter().find(|entry| entry.template == *template);
        let entry = entry.ok_or_else(|| refused(template.to_string(), "it is not published"))?;
        self.read_manifest(entry)
    }

    /// File behind `GET /catalogue/metadata/FILE`; `None` (404) for any name that is not metadata.
    #[must_use]
    pub fn metadata_file(&self, name: &str) -> Option<PathBuf> {
        let versioned = || {
            let (version, role) = name.split_once('.')?;
            let number = version.bytes().all(|byte| byte.is_ascii_digit());
            let plain = number && (1..=20).contains(&version.len());
            (plain && ["root.json", "snapshot.json", "targets.json"].contains(&role)).then_some(())
        };
        if name != "timestamp.json" {
            versioned()?;
        }
        Some(self.folder.join("metadata").join(name)).filter(|path| path.is_file())
    }

    /// File behind `GET /catalogue/targets/{*path}` (`tpl/NAME/SHA256.VERSION.json`).
    #[must_use]
    pub fn target_file(&self, path: &str) -> Option<PathBuf> {
        let [tpl, name, file] = path.split('/').collect::<Vec<_>>().try_into().ok()?;
        let (sha256, version) = file.strip_suffix(".json")?.split_once('.')?;
        let version: u64 = version.parse().ok()?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let sound = tpl == "tpl"
            && provisioning_protocol::ids::TemplateName::new(name).is_ok()
            && sha256.len() == 64
            && sha256.bytes().all(hex)
            && file == format!("{sha256}.{version}.json");
        sound.then(|| self.folder.join("targets").join(path)).filter(|path| path.is_file())
    }

    /// File behind `GET /chunks/{*path}` (`ab/abcdef…`).
    #[must_use]
    pub fn chunk_file(&self, path: &str) -> Option<PathBuf> {
        let hash = ChunkHash::from_path(path)?;
        self.chunks.packed_len(&hash)?;
        Some(self.chunks.file(&hash))
    }

    fn missing(&self, manifest: &Manifest) -> Vec<ChunkHash> {
        let chunks = manifest.chunks().into_keys();
        chunks.filter(|hash| self.chunks.packed_len(hash).is_none()).collect()
    }

    fn read_manifest(&self, entry: &CatalogueEntry) -> Result<Manifest, RepositoryError> {
        let what = entry.template.to_string();
        let path = self.folder.join("targets").join(entry.file());
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused(what, "its manifest has not been uploaded"));
            }
            Err(source) => return Err(RepositoryError::Io { path, source }),
        };
        let manifest =
            Manifest::from_json(&bytes).map_err(|err| refused(what.clone(), error_text(&err)))?;
        if CatalogueEntry::of(&manifest, &bytes) == *entry {
            return Ok(manifest);
        }
        Err(refused(what, "its manifest does not match targets.json"))
    }

    fn check_online_keys(&self, root: &Root) -> Result<(), RepositoryError> {
        let files = [
            (RoleType::Snapshot, self.keys.snapshot_file()),
            (RoleType::Timestamp, self.keys.timestamp_file()),
        ];
        for (role, file) in files {
            let key = public_key(&file).map_err(sign_error("reading an online key"))?;
            let keys = root.roles.get(&role);
            let alone = keys.is_some_and(|keys| keys.threshold == NonZeroU64::MIN);
            if !alone || !root.keys(role).any(|named| *named == key) {
                let reason = format!("it does not let this HQ's {role} key sign alone");
                return Err(refused("root.json", reason));
            }
        }
        Ok(())
    }

    fn newest_root(&self) -> Result<Option<RootFile>, RepositoryError> {
        let folder = self.folder.join("metadata");
        let io = |source| RepositoryError::Io { path: folder.clone(), source };
        let mut newest = 0_u64;
        for item in std::fs::read_dir(&folder).map_err(io)? {
            let name = item.map_err(io)?.file_name();
            let version = name.to_str().and_then(|name| name.strip_suffix(".root.json"));
            newest = newest.max(version.and_then(|v| v.parse().ok()).unwrap_or(0));
        }
        if newest == 0 {
            return Ok(None);
        }
        let bytes = self.read(&format!("metadata/{newest}.root.json"))?;
        let root = trusted_root(&bytes).map_err(refusal("stored root.json"))?;
        Ok(Some((root, bytes)))
    }

    /// What `timestamp.json` leads to; `None` before the first publication.
    fn published(&self, root: &Signed<Root>) -> Result<Option<Published>, RepositoryError> {
        if self.metadata_file("timestamp.json").is_none() {
            return Ok(None);
        }
        let bytes = self.read("metadata/timestamp.json")?;
        let timestamp: Signed<TimestampRole> =
            parse("timestamp.json", &bytes, SMALL_BYTES_MAX).map_err(refusal("timestamp.json"))?;
        let version = meta_version(&timestamp.signed.meta, "snapshot.json")?;
        let bytes = self.read(&format!("metadata/{version}.snapshot.json"))?;
        let snapshot: Signed<Snapshot> =
            parse("snapshot.json", &bytes, SMALL_BYTES_MAX).map_err(refusal("snapshot.json"))?;
        let version = meta_version(&snapshot.signed.meta, "targets.json")?;
        let targets_bytes = self.read(&format!("metadata/{version}.targets.json"))?;
        let targets =
            trusted_targets(root, &targets_bytes).map_err(refusal("stored targets.json"))?;
        Ok(Some(Published { timestamp, snapshot, targets, targets_bytes }))
    }

    async fn publish_signed(
        &self,
        root: &Signed<Root>,
        old: Published,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let snapshot_version = old.snapshot.signed.version.get();
        let timestamp_version = old.timestamp.signed.version.get();
        let (bytes, targets) = (&old.targets_bytes, &old.targets);
        self.sign_online(root, bytes, targets, snapshot_version, timestamp_version, now).await
    }

    /// Signs the snapshot and timestamp after the given versions, and writes them.
    async fn sign_online(
        &self,
        root: &Signed<Root>,
        targets_bytes: &[u8],
        targets: &Signed<Targets>,
        snapshot_version: u64,
        timestamp_version: u64,
        now: Timestamp,
    ) -> Result<(), RepositoryError> {
        let holder = KeyHolder::Root(root.signed.clone());
        let expires = now + SignedDuration::from_hours(24 * SNAPSHOT_DAYS);
        let next = NonZeroU64::MIN.saturating_add(snapshot_version);
        let mut snapshot = Snapshot::new(SPEC_VERSION.into(), next, expires);
        let meta = metafile(targets_bytes, targets.signed.version);
        snapshot.meta.insert("targets.json".into(), meta);
        let snapshot = self.sign(snapshot, &holder, &self.keys.snapshot_file()).await?;

        let expires = now + SignedDuration::from_hours(24 * TIMESTAMP_DAYS);
        let next = NonZeroU64::MIN.saturating_add(timestamp_version);
        let mut timestamp = TimestampRole::new(SPEC_VERSION.into(), next, expires);
        let meta = metafile(snapshot.buffer(), snapshot.signed().signed.version);
        timestamp.meta.insert("snapshot.json".into(), meta);
        let timestamp = self.sign(timestamp, &holder, &self.keys.timestamp_file()).await?;

        let version = snapshot.signed().signed.version;
        self.write(&format!("metadata/{version}.snapshot.json"), snapshot.buffer())?;
        self.write("metadata/timestamp.json", timestamp.buffer())
    }

    async fn sign<T: Role + serde::Serialize>(
        &self,
        role: T,
        holder: &KeyHolder,
        key: &Path,
    ) -> Result<SignedRole<T>, RepositoryError> {
        let keys = [signer(key).map_err(sign_error("reading an online key"))?];
        SignedRole::new(role, holder, &keys, &SystemRandom::new())
            .await
            .map_err(sign_error("signing with an online key"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, RepositoryError> {
        let path = self.folder.join(name);
        std::fs::read(&path).map_err(|source| RepositoryError::Io { path, source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RepositoryError> {
        let path = self.folder.join(name);
        let folder = path.parent().expect("a file lies in the repository's folder").to_path_buf();
        write_atomic(&folder, &path, bytes).map_err(|source| RepositoryError::Io { path, source })
    }
}

fn metafile(bytes: &[u8], version: NonZeroU64) -> Metafile {
    let sha256 = Sha256::digest(bytes).to_vec().into();
    Metafile {
        length: u64::try_from(bytes.len()).ok(),
        hashes: Some(Hashes { sha256, _extra: HashMap::new() }),
        version,
        _extra: HashMap::new(),
    }
}

fn meta_version(meta: &HashMap<String, Metafile>, name: &str) -> Result<u64, RepositoryError> {
    let file = meta.get(name).ok_or_else(|| refused("stored metadata", format!("no {name}")))?;
    Ok(file.version.get())
}

/// An error with its causes, on one line.
fn error_text(err: &dyn std::error::Error) -> String {
    std::iter::successors(err.source(), |err| err.source())
        .fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
