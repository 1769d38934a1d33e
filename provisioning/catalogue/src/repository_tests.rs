// SPDX-License-Identifier: Apache-2.0
//! Tests of the repository: what it publishes, and what it refuses.

use super::*;
use crate::build::tests::{build_bytes, noise};
use crate::keys::OfflineKeys;
use crate::signing::{create_root, sign_targets};

struct Setup {
    folder: tempfile::TempDir,
    keys: OfflineKeys,
    root: Vec<u8>,
    repository: Repository,
}

fn now() -> Timestamp {
    Timestamp::now()
}

async fn set_up() -> Setup {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = OfflineKeys::create(&folder.path().join("offline")).expect("made");
    let online = OnlineKeys::create(&folder.path().join("online")).expect("made");
    let root = create_root(&keys, &online.public().expect("read"), now()).await.expect("signed");
    let repository = Repository::open(&folder.path().join("hq"), online).expect("opened");
    Setup { folder, keys, root, repository }
}

impl Setup {
    fn build(&self, version: u64) -> Manifest {
        build_bytes(self.folder.path(), version, &noise(&format!("v{version}"), 1 << 20))
    }

    fn upload(&self, manifest: &Manifest) {
        let store = ChunkStore::open(&self.folder.path().join("chunks")).expect("opened");
        for hash in self.repository.put_manifest(&manifest.to_json()).expect("taken") {
            let packed = store.read_packed(&hash).expect("there");
            self.repository.chunks().add_packed(&hash, &packed).expect("stored");
        }
    }

    async fn sign(&self, add: &[Manifest]) -> Vec<u8> {
        let current = self.repository.targets().expect("read");
        sign_targets(&self.keys, &self.root, current.as_deref(), add, now()).await.expect("signed")
    }
}

fn reason<T: std::fmt::Debug>(result: Result<T, RepositoryError>) -> String {
    match result {
        Err(RepositoryError::Refused { what, reason }) => format!("{what}: {reason}"),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_version_is_published_once_everything_it_names_is_here() {
    let setup = set_up().await;
    let repository = &setup.repository;
    let manifest = setup.build(1);
    let targets = setup.sign(std::slice::from_ref(&manifest)).await;
    assert!(matches!(repository.publish(&targets, now()).await, Err(RepositoryError::NoRoot)));
    repository.put_root(&setup.root, now()).await.expect("taken");
    let missing = reason(repository.publish(&targets, now()).await);
    assert!(missing.contains("manifest has not been uploaded"), "{missing}");
    repository.put_manifest(&manifest.to_json()).expect("taken");
    let missing = reason(repository.publish(&targets, now()).await);
    assert!(missing.contains("chunks are missing"), "{missing}");
    assert!(repository.metadata_file("timestamp.json").is_none());
    setup.upload(&manifest);
    repository.publish(&targets, now()).await.expect("published");
    repository.publish(&targets, now()).await.expect("the same again");
    assert_eq!(repository.manifest(&manifest.template).expect("read"), manifest);
    let entry = &repository.entries().expect("listed")[0];
    assert!(repository.target_file(&entry.file()).is_some());
    let hash = manifest.chunks().into_keys().next().expect("a chunk");
    assert!(repository.chunk_file(&hash.path()).is_some());
}

#[tokio::test]
async fn a_catalogue_that_is_not_newer_or_not_signed_by_the_root_is_refused() {
    let setup = set_up().await;
    let repository = &setup.repository;
    repository.put_root(&setup.root, now()).await.expect("taken");
    let (one, two) = (setup.build(1), setup.build(2));
    setup.upload(&one);
    setup.upload(&two);
    let first = setup.sign(&[one]).await;
    repository.publish(&first, now()).await.expect("published");
    let second = setup.sign(&[two]).await;
    repository.publish(&second, now()).await.expect("published");
    assert!(reason(repository.publish(&first, now()).await).contains("is not above"));

    let mut flipped = second.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    reason(repository.publish(&flipped, now()).await);

    let other = set_up().await;
    let foreign = sign_targets(&other.keys, &other.root, None, &[], now()).await.expect("signed");
    reason(repository.publish(&foreign, now()).await);
    let past = now() - SignedDuration::from_hours(24 * 400);
    let current = repository.targets().expect("read");
    let expired = sign_targets(&setup.keys, &setup.root, current.as_deref(), &[], past).await;
    let refusal = reason(repository.publish(&expired.expect("signed"), now()).await);
    assert!(refusal.contains("expired"), "{refusal}");
    assert_eq!(repository.targets().expect("read"), Some(second));
}

#[tokio::test]
async fn a_root_of_another_owner_or_without_our_keys_is_refused() {
    let setup = set_up().await;
    let other = set_up().await;
    let refusal = reason(setup.repository.put_root(&other.root, now()).await);
    assert!(refusal.contains("does not let this HQ's"), "{refusal}");
    setup.repository.put_root(&setup.root, now()).await.expect("taken");
    setup.repository.put_root(&setup.root, now()).await.expect("the same again");
    let online = setup.repository.keys.public().expect("read");
    let foreign = create_root(&other.keys, &online, now()).await.expect("signed");
    reason(setup.repository.put_root(&foreign, now()).await);
    let mut flipped = setup.root.clone();
    let at = flipped.len() / 3;
    flipped[at] ^= 1;
    reason(setup.repository.put_root(&flipped, now()).await);
    assert_eq!(setup.repository.root().expect("there"), setup.root);
}

#[tokio::test]
async fn snapshot_and_timestamp_are_signed_anew_after_a_day() {
    let setup = set_up().await;
    let repository = &setup.repository;
    assert!(!repository.refresh(now()).await.expect("nothing to do"));
    repository.put_root(&setup.root, now()).await.expect("taken");
    let targets = setup.sign(&[]).await;
    repository.publish(&targets, now()).await.expect("published");
    let before = repository.read("metadata/timestamp.json").expect("read");
    assert!(!repository.refresh(now() + SignedDuration::from_hours(23)).await.expect("too early"));
    assert!(repository.refresh(now() + SignedDuration::from_hours(25)).await.expect("signed"));
    assert_ne!(repository.read("metadata/timestamp.json").expect("read"), before);
    assert!(repository.metadata_file("2.snapshot.json").is_some());
}

#[tokio::test]
async fn no_request_path_leaves_the_repository() {
    let setup = set_up().await;
    setup.repository.put_root(&setup.root, now()).await.expect("taken");
    assert!(setup.repository.metadata_file("1.root.json").is_some());
    for bad in
        ["", ".", "..", "../online/timestamp.pk8", "1.root.json/", "/etc/passwd", "a.root.json"]
    {
        assert!(setup.repository.metadata_file(bad).is_none(), "{bad}");
        assert!(setup.repository.target_file(bad).is_none(), "{bad}");
        assert!(setup.repository.chunk_file(bad).is_none(), "{bad}");
    }
    let up = format!("tpl/../{}.1.json", "a".repeat(64));
    assert!(setup.repository.target_file(&up).is_none());
}
