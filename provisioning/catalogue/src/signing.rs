// SPDX-License-Identifier: Apache-2.0
//! Offline signing: `root.json` and `targets.json`.

use crate::keys::signer;
use crate::keys::{KeyError, OfflineKeys, OnlinePublicKeys, hex, public_key, public_key_from_hex};
use crate::limits::VERSION_MAX;
use crate::manifest::Manifest;
use aws_lc_rs::rand::SystemRandom;
use jiff::{SignedDuration, Timestamp};
use provisioning_protocol::ids::TemplateName;
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::num::NonZeroU64;
use tough::TargetName;
use tough::editor::signed::SignedRole;
use tough::schema::{Hashes, KeyHolder, Role, RoleKeys, RoleType, Root, Signed, Target, Targets};

/// TUF specification the metadata follows.
pub(crate) const SPEC_VERSION: &str = "1.0.0";
/// Life of a root: re-signed every six months.
pub const ROOT_DAYS: i64 = 365;
/// Life of `targets.json`: re-signed with each release.
pub const TARGETS_DAYS: i64 = 180;
/// Longest `root.json`, bytes.
pub const ROOT_BYTES_MAX: usize = 128 * 1024;
/// Longest `targets.json`, bytes: about 10,000 template versions.
pub const TARGETS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// A key cannot be used.
    #[error("signing key cannot be used")]
    Key(#[source] KeyError),
    /// Signing failed in the TUF library.
    #[error("{operation} failed")]
    Tuf {
        /// What was being done.
        operation: &'static str,
        /// The library's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The metadata to build on is damaged or not signed by our keys.
    #[error("{file} is refused: {reason}")]
    Current {
        /// Which file.
        file: &'static str,
        /// Why.
        reason: String,
    },
    /// That version is published already with other content, or is not newer.
    #[error("{template} cannot be added: {reason}")]
    Refused {
        /// Name and version.
        template: TemplateRef,
        /// Why.
        reason: String,
    },
}

/// What `targets.json` says about one template version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Name and version.
    pub template: TemplateRef,
    /// Oldest version that may still be installed.
    pub min_version: u64,
    /// Manifest length, bytes.
    pub length: u64,
    /// Manifest SHA-256, hex.
    pub sha256: String,
}

impl CatalogueEntry {
    /// Path of the manifest below `targets/`: `tpl/NAME/SHA256.VERSION.json`.
    #[must_use]
    pub fn file(&self) -> String {
        let TemplateRef { name, version } = &self.template;
        format!("tpl/{name}/{}.{version}.json", self.sha256)
    }

    /// The entry of a manifest.
    #[must_use]
    pub fn of(manifest: &Manifest, json: &[u8]) -> Self {
        Self {
            template: manifest.template.clone(),
            min_version: manifest.min_version,
            length: u64::try_from(json.len()).expect("a manifest's length fits"),
            sha256: hex(&Sha256::digest(json)),
        }
    }
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
    let key = SigningError::Key;
    let public = [
        (RoleType::Root, public_key(&keys.root_file()).map_err(key)?),
        (RoleType::Targets, public_key(&keys.targets_file()).map_err(key)?),
        (RoleType::Snapshot, public_key_from_hex("snapshot", &online.snapshot).map_err(key)?),
        (RoleType::Timestamp, public_key_from_hex("timestamp", &online.timestamp).map_err(key)?),
    ];
    let mut root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: now + SignedDuration::from_hours(24 * ROOT_DAYS),
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    for (role, key) in public {
        let id = key.key_id().map_err(tuf("naming a key"))?;
        let keyids = vec![id.clone()];
        root.keys.insert(id, key);
        let roles = RoleKeys { keyids, threshold: NonZeroU64::MIN, _extra: HashMap::new() };
        root.roles.insert(role, roles);
    }
    let holder = KeyHolder::Root(root.clone());
    let signers = [signer(&keys.root_file()).map_err(key)?];
    let signed = SignedRole::new(root, &holder, &signers, &SystemRandom::new())
        .await
        .map_err(tuf("signing root.json"))?;
    Ok(signed.buffer().clone())
}

/// Adds manifests to a catalogue and signs the new `targets.json`. `current` is the catalogue as HQ
/// has it (`None` for the first); it is checked against `root` before anything is built on it.
/// With nothing to add it is signed anew for another [`TARGETS_DAYS`].
///
/// # Errors
/// [`SigningError`]; a version that is not newer than every published one of its template is refused
/// (unless it is published already with the same content).
pub async fn sign_targets(
    keys: &OfflineKeys,
    root: &[u8],
    current: Option<&[u8]>,
    add: &[Manifest],
    now: Timestamp,
) -> Result<Vec<u8>, SigningError> {
    let root = trusted_root(root)?;
    let expires = now + SignedDuration::from_hours(24 * TARGETS_DAYS);
    let mut targets = match current {
        None => Targets::new(SPEC_VERSION.into(), NonZeroU64::MIN, expires),
        Some(bytes) => {
            let mut targets = trusted_targets(&root, bytes)?.signed;
            targets.version = targets.version.saturating_add(1);
            targets.expires = expires;
            targets
        }
    };
    targets.delegations = None;
    for manifest in add {
        add_entry(&mut targets, manifest)?;
    }
    let holder = KeyHolder::Root(root.signed);
    let signers = [signer(&keys.targets_file()).map_err(SigningError::Key)?];
    let signed = SignedRole::new(targets, &holder, &signers, &SystemRandom::new())
        .await
        .map_err(tuf("signing targets.json (is targets.pk8 the key root.json names?)"))?;
    if signed.buffer().len() > TARGETS_BYTES_MAX {
        let reason = format!("it grew above {TARGETS_BYTES_MAX} bytes");
        return Err(SigningError::Current { file: "targets.json", reason });
    }
    Ok(signed.buffer().clone())
}

/// Lists a `targets.json` after checking it against `root`.
///
/// # Errors
/// [`SigningError`].
pub fn list_targets(root: &[u8], targets: &[u8]) -> Result<Vec<CatalogueEntry>, SigningError> {
    let root = trusted_root(root)?;
    entries(&trusted_targets(&root, targets)?.signed)
        .map_err(|reason| SigningError::Current { file: "targets.json", reason })
}

fn add_entry(targets: &mut Targets, manifest: &Manifest) -> Result<(), SigningError> {
    let json = manifest.to_json();
    let entry = CatalogueEntry::of(manifest, &json);
    let refused =
        |reason: String| SigningError::Refused { template: manifest.template.clone(), reason };
    // What is signed is what every agent will read: check it as they do.
    Manifest::from_json(&json).map_err(|err| refused(err.to_string()))?;
    let published = entries(targets)
        .map_err(|reason| SigningError::Current { file: "targets.json", reason })?;
    let same = published.iter().filter(|old| old.template.name == entry.template.name);
    for old in same {
        if *old == entry {
            return Ok(());
        }
        if old.template.version >= entry.template.version {
            return Err(refused(format!("{} is published already", old.template)));
        }
        if old.min_version > entry.min_version {
            return Err(refused(format!("{} has min_release {}", old.template, old.min_version)));
        }
    }
    let name = TargetName::new(entry.template.target_name()).map_err(tuf("naming the target"))?;
    targets.add_target(name, target(&entry, manifest));
    Ok(())
}

fn target(entry: &CatalogueEntry, manifest: &Manifest) -> Target {
    let sha256 =
        (0..32).filter_map(|at| u8::from_str_radix(&entry.sha256[2 * at..2 * at + 2], 16).ok());
    let custom: [(&str, Value); 7] = [
        ("kind", json!("template")),
        ("name", json!(entry.template.name)),
        ("version", json!(entry.template.version)),
        ("release_counter", json!(entry.template.version)),
        ("min_counter", json!(entry.min_version)),
        ("size", json!(manifest.stored_bytes())),
        ("unpacked_size", json!(manifest.image_bytes())),
    ];
    Target {
        length: entry.length,
        hashes: Hashes { sha256: sha256.collect::<Vec<u8>>().into(), _extra: HashMap::new() },
        custom: custom.map(|(key, value)| (key.to_owned(), value)).into(),
        _extra: HashMap::new(),
    }
}

/// Reads a root and checks its own signature.
pub(crate) fn trusted_root(bytes: &[u8]) -> Result<Signed<Root>, SigningError> {
    let root: Signed<Root> = parse("root.json", bytes, ROOT_BYTES_MAX)?;
    verify("root.json", &root.signed, &root)?;
    if root.signed.consistent_snapshot {
        return Ok(root);
    }
    let reason = "it does not ask for consistent snapshots".to_owned();
    Err(SigningError::Current { file: "root.json", reason })
}

/// Reads a `targets.json` and checks that `root` vouches for it.
pub(crate) fn trusted_targets(
    root: &Signed<Root>,
    bytes: &[u8],
) -> Result<Signed<Targets>, SigningError> {
    let targets: Signed<Targets> = parse("targets.json", bytes, TARGETS_BYTES_MAX)?;
    verify("targets.json", &root.signed, &targets)?;
    Ok(targets)
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    file: &'static str,
    bytes: &[u8],
    max: usize,
) -> Result<T, SigningError> {
    let refuse = |reason| SigningError::Current { file, reason };
    if bytes.len() > max {
        return Err(refuse(format!("{} bytes, at most {max}", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|err| refuse(err.to_string()))
}

pub(crate) fn verify<T: Role + serde::Serialize>(
    file: &'static str,
    root: &Root,
    role: &Signed<T>,
) -> Result<(), SigningError> {
    root.verify_role(role).map_err(|err| SigningError::Current { file, reason: err.to_string() })
}

/// Reads the entries; a name that is not exactly `tpl/NAME/VERSION.json` refuses the whole list.
pub(crate) fn entries(targets: &Targets) -> Result<Vec<CatalogueEntry>, String> {
    if targets.delegations.as_ref().is_some_and(|d| !d.roles.is_empty()) {
        return Err("delegations are not used in this catalogue".into());
    }
    let mut entries = Vec::new();
    for (name, target) in &targets.targets {
        let template = parse_target_name(name.raw())
            .ok_or_else(|| format!("{:?} is no template's name", name.raw()))?;
        let min_version = match target.custom.get("min_counter") {
            None => 1,
            Some(value) => {
                value.as_u64().ok_or_else(|| format!("{template} has no sound min_counter"))?
            }
        };
        let (length, sha256) = (target.length, hex(&target.hashes.sha256));
        entries.push(CatalogueEntry { template, min_version, length, sha256 });
    }
    entries.sort_by(|a, b| order(&a.template).cmp(&order(&b.template)));
    Ok(entries)
}

/// Orders by name, then version.
fn order(template: &TemplateRef) -> (&TemplateName, TemplateVersion) {
    (&template.name, template.version)
}

fn parse_target_name(text: &str) -> Option<TemplateRef> {
    let (name, version) = text.strip_prefix("tpl/")?.strip_suffix(".json")?.split_once('/')?;
    let version: u64 = version.parse().ok()?;
    let template =
        TemplateRef { name: TemplateName::new(name).ok()?, version: TemplateVersion(version) };
    let canonical = (1..=VERSION_MAX).contains(&version) && template.target_name() == text;
    canonical.then_some(template)
}

pub(crate) fn tuf<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
) -> impl FnOnce(E) -> SigningError {
    move |source| SigningError::Tuf { operation, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::OnlineKeys;
    use crate::manifest::tests::sound;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    async fn set_up(folder: &std::path::Path) -> (OfflineKeys, Vec<u8>) {
        let keys = OfflineKeys::create(&folder.join("offline")).expect("made");
        let online = OnlineKeys::create(&folder.join("online")).expect("made");
        let public = online.public().expect("read");
        let root = create_root(&keys, &public, now()).await.expect("signed");
        (keys, root)
    }

    #[tokio::test]
    async fn versions_are_added_and_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (keys, root) = set_up(folder.path()).await;
        let one = sign_targets(&keys, &root, None, &[sound(1)], now()).await.expect("signed");
        let two = sign_targets(&keys, &root, Some(&one), &[sound(2)], now()).await.expect("signed");
        let list = list_targets(&root, &two).expect("listed");
        let names: Vec<String> = list.iter().map(|entry| entry.template.to_string()).collect();
        assert_eq!(names, ["parts-counter@1", "parts-counter@2"]);
    }

    #[tokio::test]
    async fn a_version_is_never_published_twice_with_other_content_nor_after_a_newer_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (keys, root) = set_up(folder.path()).await;
        let two = sign_targets(&keys, &root, None, &[sound(2)], now()).await.expect("signed");
        sign_targets(&keys, &root, Some(&two), &[sound(2)], now()).await.expect("same again");
        let mut other = sound(2);
        other.vm.cpus = 2;
        let mut lower_floor = sound(4);
        let mut floor = sound(3);
        floor.min_version = 2;
        lower_floor.min_version = 1;
        let three = sign_targets(&keys, &root, Some(&two), &[floor], now()).await.expect("signed");
        for (current, bad) in [(&two, other), (&two, sound(1)), (&three, lower_floor)] {
            let got = sign_targets(&keys, &root, Some(current), &[bad], now()).await;
            assert!(matches!(got, Err(SigningError::Refused { .. })), "{got:?}");
        }
    }

    #[tokio::test]
    async fn a_catalogue_that_our_keys_did_not_sign_is_not_built_upon() {
        let folder = tempfile::tempdir().expect("a folder");
        let (keys, root) = set_up(&folder.path().join("ours")).await;
        let (others, other_root) = set_up(&folder.path().join("theirs")).await;
        let foreign =
            sign_targets(&others, &other_root, None, &[sound(1)], now()).await.expect("signed");
        let good = sign_targets(&keys, &root, None, &[sound(1)], now()).await.expect("signed");
        let flipped =
            String::from_utf8(good).expect("utf-8").replace("\"version\": 1", "\"version\": 9");
        for current in [foreign.as_slice(), flipped.as_bytes(), b"{}", b""] {
            let got = sign_targets(&keys, &root, Some(current), &[sound(2)], now()).await;
            assert!(matches!(got, Err(SigningError::Current { .. })), "{got:?}");
        }
        let wrong_key = sign_targets(&others, &root, None, &[sound(1)], now()).await;
        assert!(matches!(wrong_key, Err(SigningError::Tuf { .. })), "{wrong_key:?}");
    }

    #[test]
    fn only_plain_template_names_are_listed() {
        assert!(parse_target_name("tpl/parts-counter/1.json").is_some());
        for bad in [
            "tpl/parts-counter/01.json",
            "tpl/parts-counter/+1.json",
            "tpl/parts-counter/0.json",
            "tpl/parts-counter/../x/1.json",
            "tpl/../1.json",
            "/tpl/parts-counter/1.json",
            "tpl/parts-counter/1.json/",
            "tpl/parts%2Dcounter/1.json",
            "tpl/pаrts/1.json",
            "os/parts-counter/1.json",
            "tpl/parts-counter/18446744073709551616.json",
            "tpl/parts-counter/9007199254740992.json",
        ] {
            assert!(parse_target_name(bad).is_none(), "{bad}");
        }
    }
}
