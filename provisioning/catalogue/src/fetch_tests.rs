// SPDX-License-Identifier: Apache-2.0
//! Tests of the fetch against good, dead and hostile chunk servers over real HTTP.

use super::*;
use crate::build::tests::{build_bytes, noise};
use crate::chunks::{ChunkStore, pack};
use crate::local::LocalChunks;
use crate::manifest::Manifest;
use crate::source::HttpChunks;
use crate::test_server::{Reply, Server, Spoil, client};

/// A template on disk: its chunks, its image, and where to fetch it to.
struct Setup {
    folder: tempfile::TempDir,
    manifest: Manifest,
    bytes: Vec<u8>,
}

fn set_up() -> Setup {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bytes = noise("image", 1 << 20);
    // A hole, and a repetition that the chunker cuts alike.
    bytes[300_000..400_000].fill(0);
    bytes.extend(noise("image", 1 << 20));
    let manifest = build_bytes(folder.path(), 1, &bytes);
    Setup { folder, manifest, bytes }
}

impl Setup {
    fn image(&self) -> &ImageIndex {
        self.manifest.system_image()
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    /// A server of these chunks; `spoil` may change an answer.
    async fn serve(&self, spoil: impl Fn(Vec<u8>) -> Reply + Send + Sync + 'static) -> Server {
        let store = ChunkStore::open(&self.folder.path().join("chunks")).expect("opened");
        Server::start(move |path| {
            let path = path.trim_start_matches("/chunks/");
            match ChunkHash::from_path(path).map(|hash| store.read_packed(&hash)) {
                Some(Ok(packed)) => spoil(packed),
                _ => Reply::Missing,
            }
        })
        .await
    }

    async fn fetch(&self, sources: &[Arc<dyn ChunkSource>]) -> Result<FetchStats, FetchError> {
        fetch_image(self.image(), sources, &self.target(), &limits(), &|_| {}).await
    }

    fn is_whole(&self) -> bool {
        std::fs::read(self.target()).expect("read") == self.bytes
    }
}

fn limits() -> FetchLimits {
    FetchLimits { tries: 2, pause: Duration::from_millis(10), ..FetchLimits::default() }
}

fn hq(server: &Server) -> Arc<dyn ChunkSource> {
    let base = server.url.join("chunks").expect("a URL");
    Arc::new(HttpChunks::hq(base, client()))
}

fn peer(server: &Server) -> Arc<dyn ChunkSource> {
    let base = server.url.join("chunks").expect("a URL");
    let patience = Duration::from_millis(200);
    Arc::new(HttpChunks::peer(base, client()).patience(patience).chunk_time_max(patience * 2))
}

#[tokio::test]
async fn an_image_is_fetched_whole_and_each_chunk_once() {
    let setup = set_up();
    let server = setup.serve(Reply::Bytes).await;
    let stats = setup.fetch(&[hq(&server)]).await.expect("fetched");
    assert!(setup.is_whole());
    verify_image(setup.image(), &setup.target()).await.expect("the signed image");
    assert_eq!(server.most(), 1, "a chunk was asked for twice");
    assert_eq!(stats.wan_chunks, u64::from(server.count()));
    assert_eq!(stats.wan_bytes, setup.manifest.stored_bytes());
    assert_eq!((stats.done_bytes, stats.bad_answers, stats.peer_bytes), (stats.total_bytes, 0, 0));
    assert!(stats.hole_bytes >= 90_000);
}

#[tokio::test]
async fn the_second_server_copies_from_the_first_and_the_wan_stays_idle() {
    let setup = set_up();
    let volume = setup.folder.path().join("sealed");
    std::fs::write(&volume, &setup.bytes).expect("written");
    let mut local = LocalChunks::default();
    local.add(&volume, setup.image());
    let first = Server::start(move |path| {
        let hash = ChunkHash::from_path(path.trim_start_matches("/chunks/")).expect("a name");
        match local.packed(&hash).expect("read") {
            Some(packed) => Reply::Bytes(packed),
            None => Reply::Missing,
        }
    })
    .await;
    let wan = setup.serve(Reply::Bytes).await;
    let stats = setup.fetch(&[peer(&first), hq(&wan)]).await.expect("fetched");
    assert!(setup.is_whole());
    assert_eq!((wan.count(), stats.wan_bytes), (0, 0));
    assert!(stats.peer_bytes > 0);
}

#[tokio::test]
async fn a_bad_source_is_left_for_the_next_and_nothing_wrong_is_written() {
    let cases: [(&str, Spoil); 9] = [
        ("stalls", Reply::Stall),
        ("ends early", Reply::Early),
        ("drips", Reply::Drip),
        ("endless", |_| Reply::Endless),
        ("lies", |_| Reply::Bytes(pack(b"something else", 1))),
        ("flips a byte", |mut packed| {
            let at = packed.len() / 2;
            packed[at] ^= 1;
            Reply::Bytes(packed)
        }),
        ("one byte short", |mut packed| {
            packed.pop();
            Reply::Bytes(packed)
        }),
        ("bomb", |_| Reply::Bytes(pack(&vec![0; 64 << 20], 1))),
        ("fails", |_| Reply::Status(500)),
    ];
    for (what, spoil) in cases {
        let setup = set_up();
        let bad = setup.serve(spoil).await;
        let good = setup.serve(Reply::Bytes).await;
        let start = Instant::now();
        let stats = setup.fetch(&[peer(&bad), hq(&good)]).await.expect(what);
        assert!(setup.is_whole(), "{what}");
        assert!(stats.bad_answers > 0, "{what}");
        // It is left alone after a few failures, not asked for each chunk.
        assert!(bad.count() < 20, "{what}: asked {} times", bad.count());
        assert!(start.elapsed() < Duration::from_secs(20), "{what} took {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_dead_peer_and_one_without_the_chunks_cost_little() {
    let setup = set_up();
    let wan = setup.serve(Reply::Bytes).await;
    let empty = Server::start(|_| Reply::Missing).await;
    let dead = Server::start(|_| Reply::Missing).await;
    let dead_source = peer(&dead);
    drop(dead);
    let stats = setup.fetch(&[dead_source, peer(&empty), hq(&wan)]).await.expect("fetched");
    assert!(setup.is_whole());
    assert_eq!(stats.wan_bytes, setup.manifest.stored_bytes());
}

#[tokio::test]
async fn without_any_good_source_the_fetch_ends_and_names_the_last() {
    let setup = set_up();
    let bad = setup.serve(|_| Reply::Bytes(pack(b"something else", 1))).await;
    let err = setup.fetch(&[hq(&bad)]).await.expect_err("no chunk").to_string();
    assert!(err.contains("hq: chunk") && err.contains("other bytes"), "{err}");
    let none = setup.fetch(&[]).await.expect_err("no source").to_string();
    assert!(none.contains("there is no source"), "{none}");
}

#[tokio::test]
async fn an_interrupted_fetch_goes_on_with_only_what_is_missing() {
    let setup = set_up();
    let left = Mutex::new(20_u32);
    let breaks = setup
        .serve(move |packed| {
            let mut left = left.lock().expect("unpoisoned");
            *left = left.saturating_sub(1);
            if *left > 0 { Reply::Bytes(packed) } else { Reply::Early(packed) }
        })
        .await;
    setup.fetch(&[hq(&breaks)]).await.expect_err("broken off");
    let good = setup.serve(Reply::Bytes).await;
    let stats = setup.fetch(&[hq(&good)]).await.expect("fetched");
    assert!(setup.is_whole());
    let all = u32::try_from(setup.manifest.chunks().len()).expect("few");
    assert!(good.count() <= all - 10, "{} of {all} chunks were fetched again", good.count());
    assert!(stats.reused_bytes > 0 && stats.wan_bytes < setup.manifest.stored_bytes());

    let again = setup.fetch(&[]).await.expect("nothing is missing");
    assert_eq!(again.done_bytes, again.total_bytes);
}

#[tokio::test]
async fn damage_on_the_target_is_found_and_only_that_is_fetched() {
    let setup = set_up();
    let good = setup.serve(Reply::Bytes).await;
    setup.fetch(&[hq(&good)]).await.expect("fetched");
    let before = good.count();
    let mut bytes = setup.bytes.clone();
    bytes[10] ^= 1;
    bytes[350_000] = 1;
    std::fs::write(setup.target(), &bytes).expect("written");
    let err = verify_image(setup.image(), &setup.target()).await;
    assert!(matches!(err, Err(FetchError::Verify { .. })));
    let stats = setup.fetch(&[hq(&good)]).await.expect("fetched");
    assert!(setup.is_whole());
    assert_eq!((good.count() - before, stats.wan_chunks), (1, 1));
}

#[tokio::test]
async fn a_target_that_is_too_small_or_one_byte_short_is_refused() {
    let setup = set_up();
    let err = fetch_image(setup.image(), &[], Path::new("/dev/null"), &limits(), &|_| {}).await;
    assert!(matches!(err, Err(FetchError::TargetSize { got: 0, .. })), "{err:?}");
    std::fs::write(setup.target(), &setup.bytes[1..]).expect("written");
    let err = verify_image(setup.image(), &setup.target()).await;
    assert!(matches!(err, Err(FetchError::Target { .. })), "{err:?}");
}
