// SPDX-License-Identifier: Apache-2.0
//! Tests of the client against a real repository over HTTP, honest and attacked.

use super::*;
use crate::build::tests::{build_bytes, noise};
use crate::chunks::ChunkStore;
use crate::keys::{OfflineKeys, OnlineKeys};
use crate::repository::Repository;
use crate::signing::{create_root, sign_targets};
use crate::test_server::{Reply, Server, Spoil, client};

struct Hq {
    folder: tempfile::TempDir,
    keys: OfflineKeys,
    root: Vec<u8>,
    repository: Arc<Repository>,
    now: Timestamp,
}

impl Hq {
    /// An HQ whose clock shows `now`.
    async fn at(now: Timestamp) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = OfflineKeys::create(&folder.path().join("offline")).expect("made");
        let online = OnlineKeys::create(&folder.path().join("online")).expect("made");
        let public = online.public().expect("read");
        let root = create_root(&keys, &public, now).await.expect("signed");
        let repository = Repository::open(&folder.path().join("hq"), online).expect("opened");
        repository.put_root(&root, now).await.expect("taken");
        Self { folder, keys, root, repository: Arc::new(repository), now }
    }

    async fn new() -> Self {
        Self::at(Timestamp::now()).await
    }

    async fn publish(&self, version: u64, min_version: u64) -> Manifest {
        let bytes = noise(&format!("v{version}"), 256 * 1024);
        let mut manifest = build_bytes(self.folder.path(), version, &bytes);
        manifest.min_version = min_version;
        let store = ChunkStore::open(&self.folder.path().join("chunks")).expect("opened");
        for hash in self.repository.put_manifest(&manifest.to_json()).expect("taken") {
            let packed = store.read_packed(&hash).expect("there");
            self.repository.chunks().add_packed(&hash, &packed).expect("stored");
        }
        let current = self.repository.targets().expect("read");
        let add = std::slice::from_ref(&manifest);
        let targets = sign_targets(&self.keys, &self.root, current.as_deref(), add, self.now)
            .await
            .expect("signed");
        self.repository.publish(&targets, self.now).await.expect("published");
        manifest
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        read(&self.repository, path)
    }

    async fn serve(&self) -> Server {
        self.serve_spoilt(|_, bytes| bytes.map_or(Reply::Missing, Reply::Bytes)).await
    }

    /// Serves the repository; `spoil` sees each path and what the answer would be.
    async fn serve_spoilt(
        &self,
        spoil: impl Fn(&str, Option<Vec<u8>>) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let repository = Arc::clone(&self.repository);
        Server::start(move |path| spoil(path, read(&repository, path))).await
    }

    async fn catalogue(&self, folder: &Path, server: &Server) -> Catalogue {
        self.catalogue_of(folder, vec![server.url.clone()]).await
    }

    async fn catalogue_of(&self, folder: &Path, hq_urls: Vec<url::Url>) -> Catalogue {
        let folder = folder.join("tuf");
        let root_json = self.root.clone();
        let config = CatalogueConfig { folder, root_json, hq_urls, http: client() };
        Catalogue::open(config).await.expect("opened")
    }
}

fn read(repository: &Repository, path: &str) -> Option<Vec<u8>> {
    let file = match path.strip_prefix("/catalogue/metadata/") {
        Some(name) => repository.metadata_file(name),
        None => repository.target_file(path.strip_prefix("/catalogue/targets/")?),
    };
    file.map(|file| std::fs::read(file).expect("read"))
}

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn chain(err: &dyn std::error::Error) -> String {
    std::iter::successors(Some(err), |err| err.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn a_signed_version_is_installed_and_known_again_without_network() {
    let (hq, folder) = (Hq::new().await, temp());
    let manifest = hq.publish(1, 1).await;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    let unknown = catalogue.manifest_for_install(&manifest.template, None, hq.now).await;
    assert!(matches!(unknown, Err(ClientError::Unknown)), "{unknown:?}");
    catalogue.refresh().await.expect("fetched");
    let got = catalogue.manifest_for_install(&manifest.template, None, hq.now).await;
    assert_eq!(got.expect("signed"), manifest);

    drop((catalogue, server));
    let offline = hq.catalogue_of(folder.path(), Vec::new()).await;
    assert_eq!(offline.freshness(hq.now), Freshness::Fresh);
    assert_eq!(offline.manifest_for_run(&manifest.template).expect("kept"), manifest);
    let got = offline.manifest_for_install(&manifest.template, None, hq.now).await;
    assert_eq!(got.expect("kept"), manifest);
    offline.forget(&manifest.template).expect("removed");
    assert!(offline.manifest_for_run(&manifest.template).is_err());
}

#[tokio::test]
async fn changed_or_lengthened_metadata_is_refused_and_the_old_stays_in_force() {
    let spoils: [(&str, Spoil); 6] = [
        ("a flipped byte", |mut bytes| {
            let at = bytes.windows(9).position(|part| part == b"\"expires\"").expect("there");
            let at = at + bytes[at..].iter().position(|byte| *byte == b'2').expect("a year");
            bytes[at + 1] ^= 1;
            Reply::Bytes(bytes)
        }),
        ("more than it says", |mut bytes| {
            bytes.resize(bytes.len() + 5 * 1024 * 1024, b' ');
            Reply::Bytes(bytes)
        }),
        ("no JSON", |_| Reply::Bytes(b"<html>captive portal</html>".to_vec())),
        ("nothing", |_| Reply::Bytes(Vec::new())),
        ("an early end", Reply::Early),
        ("an error", |_| Reply::Status(503)),
    ];
    for (what, spoil) in spoils {
        for part in ["timestamp.json", ".snapshot.json", ".targets.json", "2.root.json"] {
            let (hq, folder) = (Hq::new().await, temp());
            hq.publish(1, 1).await;
            let honest = hq.serve().await;
            let mut catalogue = hq.catalogue(folder.path(), &honest).await;
            catalogue.refresh().await.expect("fetched");
            hq.publish(2, 1).await;
            let root = hq.root.clone();
            let server = hq
                .serve_spoilt(move |path, bytes| {
                    // There is no second root: the attacker makes one up.
                    let bytes =
                        bytes.or_else(|| path.ends_with("2.root.json").then(|| root.clone()));
                    match bytes {
                        Some(bytes) if path.ends_with(part) => spoil(bytes),
                        Some(bytes) if !path.ends_with("2.root.json") => Reply::Bytes(bytes),
                        _ => Reply::Missing,
                    }
                })
                .await;
            catalogue.config.hq_urls = vec![server.url.clone()];
            let err = catalogue.refresh().await.expect_err(what);
            assert!(
                matches!(err, ClientError::Metadata { .. } | ClientError::Fetch { .. }),
                "{what} in {part}: {err:?}"
            );
            assert_eq!(catalogue.entries().len(), 1, "{what} in {part}");
        }
    }
}

#[tokio::test]
async fn a_changed_manifest_is_refused() {
    let spoils: [(&str, Spoil); 4] = [
        ("a flipped byte", |mut bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            Reply::Bytes(bytes)
        }),
        ("one byte longer than it says", |mut bytes| {
            bytes.push(b' ');
            Reply::Bytes(bytes)
        }),
        ("one byte short", |mut bytes| {
            bytes.pop();
            Reply::Bytes(bytes)
        }),
        ("endless", |_| Reply::Endless),
    ];
    for (what, spoil) in spoils {
        let (hq, folder) = (Hq::new().await, temp());
        let manifest = hq.publish(1, 1).await;
        let server = hq
            .serve_spoilt(move |path, bytes| match bytes {
                Some(bytes) if path.starts_with("/catalogue/targets/") => spoil(bytes),
                Some(bytes) => Reply::Bytes(bytes),
                None => Reply::Missing,
            })
            .await;
        let mut catalogue = hq.catalogue(folder.path(), &server).await;
        catalogue.refresh().await.expect("fetched");
        let got = catalogue.manifest_for_install(&manifest.template, None, hq.now).await;
        assert!(matches!(got, Err(ClientError::Manifest { .. })), "{what}: {got:?}");
        assert!(catalogue.manifest_for_run(&manifest.template).is_err(), "{what} was kept");
    }
}

#[tokio::test]
async fn a_catalogue_signed_by_unknown_keys_is_refused() {
    let (ours, theirs, folder) = (Hq::new().await, Hq::new().await, temp());
    theirs.publish(1, 1).await;
    let server = theirs.serve().await;
    let mut catalogue = ours.catalogue(folder.path(), &server).await;
    let err = catalogue.refresh().await.expect_err("unknown key");
    assert!(matches!(err, ClientError::Metadata { .. }), "{}", chain(&err));
    assert!(catalogue.entries().is_empty());
}

#[tokio::test]
async fn an_older_withdrawn_or_unlisted_version_is_not_installed() {
    let (hq, folder) = (Hq::new().await, temp());
    let one = hq.publish(1, 1).await.template;
    let two = hq.publish(2, 1).await.template;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    catalogue.refresh().await.expect("fetched");
    let older = catalogue.manifest_for_install(&one, Some(two.version), hq.now).await;
    assert!(matches!(older, Err(ClientError::Older { .. })), "{older:?}");
    catalogue.manifest_for_install(&one, None, hq.now).await.expect("still allowed");
    let three = hq.publish(3, 2).await.template;
    catalogue.refresh().await.expect("fetched");
    let withdrawn = catalogue.manifest_for_install(&one, None, hq.now).await;
    assert!(matches!(withdrawn, Err(ClientError::Withdrawn { min_version: 2, .. })));
    catalogue.manifest_for_run(&one).expect("what runs goes on");
    catalogue.manifest_for_install(&three, Some(two.version), hq.now).await.expect("newer");
    let four = TemplateRef { version: TemplateVersion(4), ..three };
    let unlisted = catalogue.manifest_for_install(&four, None, hq.now).await;
    assert!(matches!(unlisted, Err(ClientError::NotInCatalogue { .. })));
}

#[tokio::test]
async fn older_metadata_is_refused_once_newer_was_seen() {
    let (hq, folder) = (Hq::new().await, temp());
    hq.publish(1, 1).await;
    let old = hq.read("/catalogue/metadata/timestamp.json").expect("there");
    hq.publish(2, 1).await;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    catalogue.refresh().await.expect("fetched");
    let replay = hq
        .serve_spoilt(move |path, bytes| match bytes {
            Some(_) if path.ends_with("timestamp.json") => Reply::Bytes(old.clone()),
            Some(bytes) => Reply::Bytes(bytes),
            None => Reply::Missing,
        })
        .await;
    // Also after a restart: what was seen is kept on disk.
    for mut catalogue in [catalogue, hq.catalogue(folder.path(), &replay).await] {
        catalogue.config.hq_urls = vec![replay.url.clone()];
        let err = catalogue.refresh().await.expect_err("rollback");
        assert!(chain(&err).contains("version 1"), "{}", chain(&err));
        assert_eq!(catalogue.entries().len(), 2);
    }
}

#[tokio::test]
async fn hq_itself_cannot_hide_a_version_it_has_shown() {
    let (hq, folder) = (Hq::new().await, temp());
    hq.publish(1, 1).await;
    // A thief of the online keys goes back to the old targets.json under a newer timestamp.
    let stolen = hq.folder.path().join("stolen");
    copy(&hq.folder.path().join("hq/metadata"), &stolen.join("metadata"));
    hq.publish(2, 1).await;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    catalogue.refresh().await.expect("fetched");
    let keys = OnlineKeys::open(&hq.folder.path().join("online")).expect("opened");
    let thief = Arc::new(Repository::open(&stolen, keys).expect("opened"));
    for day in 2..6 {
        let later = hq.now + SignedDuration::from_hours(24 * day);
        assert!(thief.refresh(later).await.expect("signed"));
    }
    let server = Server::start(move |path| read(&thief, path).map_or(Reply::Missing, Reply::Bytes));
    let server = server.await;
    catalogue.config.hq_urls = vec![server.url.clone()];
    let err = catalogue.refresh().await.expect_err("rollback");
    assert!(matches!(err, ClientError::Metadata { .. }), "{}", chain(&err));
    assert_eq!(catalogue.entries().len(), 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for item in std::fs::read_dir(from).expect("read") {
        let path = item.expect("read").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

#[tokio::test]
async fn expired_metadata_blocks_change_and_nothing_else() {
    let (hq, folder) = (Hq::new().await, temp());
    let one = hq.publish(1, 1).await.template;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    catalogue.refresh().await.expect("fetched");
    catalogue.manifest_for_install(&one, None, hq.now).await.expect("fresh");
    let in_days = |days: i64| hq.now + SignedDuration::from_hours(24 * days);
    assert_eq!(catalogue.freshness(in_days(6)), Freshness::Fresh);
    assert!(matches!(catalogue.freshness(in_days(8)), Freshness::Stale { .. }));
    assert!(matches!(catalogue.freshness(in_days(40)), Freshness::Expired { .. }));
    let blocked = catalogue.manifest_for_install(&one, None, in_days(8)).await;
    assert!(matches!(blocked, Err(ClientError::Expired { .. })), "{blocked:?}");
    catalogue.manifest_for_run(&one).expect("what runs goes on");
}

#[tokio::test]
async fn a_frozen_hq_is_refused() {
    let past = Timestamp::now() - SignedDuration::from_hours(24 * 10);
    let (hq, folder) = (Hq::at(past).await, temp());
    hq.publish(1, 1).await;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    let err = catalogue.refresh().await.expect_err("frozen");
    assert!(chain(&err).contains("expired"), "{}", chain(&err));
    assert_eq!(catalogue.freshness(Timestamp::now()), Freshness::Unknown);
}

#[tokio::test]
async fn a_clock_once_in_the_future_and_damaged_files_do_not_block_for_good() {
    let (hq, folder) = (Hq::new().await, temp());
    let manifest = hq.publish(1, 1).await;
    let server = hq.serve().await;
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    catalogue.refresh().await.expect("fetched");
    catalogue.manifest_for_install(&manifest.template, None, hq.now).await.expect("signed");
    let tuf = folder.path().join("tuf");
    std::fs::write(tuf.join("work/latest_known_time.json"), "\"2099-01-01T00:00:00Z\"")
        .expect("written");
    catalogue.refresh().await.expect("fetched again");

    std::fs::write(tuf.join("verified.json"), "{\"root\":").expect("written");
    for item in std::fs::read_dir(tuf.join("manifests")).expect("read") {
        std::fs::write(item.expect("read").path(), "torn").expect("written");
    }
    let mut catalogue = hq.catalogue(folder.path(), &server).await;
    assert_eq!(catalogue.freshness(hq.now), Freshness::Unknown);
    assert!(catalogue.manifest_for_run(&manifest.template).is_err());
    catalogue.refresh().await.expect("fetched anew");
    catalogue.manifest_for_install(&manifest.template, None, hq.now).await.expect("fetched anew");
}

#[tokio::test]
async fn the_next_hq_is_asked_when_one_is_down() {
    let (hq, folder) = (Hq::new().await, temp());
    let manifest = hq.publish(1, 1).await;
    let (down, server) = (hq.serve().await, hq.serve().await);
    let urls = vec![down.url.clone(), server.url.clone()];
    drop(down);
    let mut catalogue = hq.catalogue_of(folder.path(), urls.clone()).await;
    catalogue.refresh().await.expect("from the second");
    catalogue.manifest_for_install(&manifest.template, None, hq.now).await.expect("likewise");
    drop(server);
    let err = catalogue.refresh().await.expect_err("all down");
    assert!(matches!(err, ClientError::Fetch { .. }), "{err:?}");
}

#[tokio::test]
async fn a_bundle_without_a_root_is_refused() {
    let folder = temp();
    for root in ["", "{}", "null"] {
        let config = CatalogueConfig {
            folder: folder.path().to_path_buf(),
            root_json: root.into(),
            hq_urls: Vec::new(),
            http: client(),
        };
        assert!(matches!(Catalogue::open(config).await, Err(ClientError::Root { .. })), "{root}");
    }
}
