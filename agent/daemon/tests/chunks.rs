// SPDX-License-Identifier: Apache-2.0
//! The second server copies a template from the first over real HTTP while the first still
//! fetches it, and goes to HQ itself when the first falls silent.

use agent_daemon::peer::chunks::Shelf;
use agent_daemon::templates::peer_source::{PatientPeer, PeerShelf};
use async_trait::async_trait;
use bytes::Bytes;
use provisioning_catalogue::chunks::{ChunkHash, pack};
use provisioning_catalogue::fetch::{FetchLimits, fetch_image, verify_image};
use provisioning_catalogue::manifest::{Extent, ImageIndex};
use provisioning_catalogue::source::{ChunkSource, SourceError, SourceKind};
use provisioning_protocol::ids::{DiskName, TemplateName};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

const CHUNK: u32 = 32 * 1024;

/// HQ, as slow as told.
struct Hq {
    chunks: BTreeMap<ChunkHash, Vec<u8>>,
    pause: Duration,
    asked: AtomicUsize,
}

#[async_trait]
impl ChunkSource for Hq {
    fn name(&self) -> &str {
        "hq"
    }
    fn kind(&self) -> SourceKind {
        SourceKind::Wan
    }
    async fn get(&self, hash: &ChunkHash, _max: usize) -> Result<Bytes, SourceError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.pause).await;
        let packed = self.chunks.get(hash).cloned();
        packed.map(Bytes::from).ok_or(SourceError::Missing { name: "hq".into() })
    }
}

fn template() -> TemplateRef {
    TemplateRef { name: TemplateName::new("pos").unwrap(), version: TemplateVersion(1) }
}

/// An image of distinct chunks, and HQ's store of them.
fn image(chunks: u32, pause: Duration) -> (ImageIndex, Arc<Hq>) {
    let (mut extents, mut store, mut whole) = (Vec::new(), BTreeMap::new(), Vec::new());
    for n in 0..chunks {
        let bytes: Vec<u8> = (0..CHUNK).map(|at| ((at * (n + 3)) >> 5).to_le_bytes()[0]).collect();
        let (hash, packed) = (ChunkHash::of(&bytes), pack(&bytes, 1));
        let stored = u32::try_from(packed.len()).unwrap();
        extents.push(Extent::Chunk { hash, length: CHUNK, stored });
        store.insert(hash, packed);
        whole.extend(bytes);
    }
    let index = ImageIndex {
        disk: DiskName::new("system").unwrap(),
        size: u64::from(CHUNK * chunks),
        blake3: ChunkHash::of(&whole),
        extents,
    };
    (index, Arc::new(Hq { chunks: store, pause, asked: AtomicUsize::new(0) }))
}

/// Serves a shelf on loopback, and gives the peer's view of it.
async fn serve(shelf: &Shelf) -> (PeerShelf, tokio::task::JoinHandle<()>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let routes = shelf.routes();
    let served = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    (PeerShelf::new(http, vec![format!("http://{at}")]), served)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_server_copies_while_the_first_still_fetches() {
    let dir = tempfile::tempdir().unwrap();
    let (index, hq) = image(24, Duration::from_millis(150));
    let (target_a, target_b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::File::create(&target_a).unwrap().set_len(index.size).unwrap();
    let shelf = Shelf::default();
    let (peer, _served) = serve(&shelf).await;
    assert_eq!(peer.offers(&template()).await, Ok(None));
    shelf.put(&template(), &target_a, &index, false);
    assert_eq!(peer.offers(&template()).await, Ok(Some(false)));

    let limits = FetchLimits { in_flight: 2, ..FetchLimits::default() };
    let quiet = |_| {};
    let from_hq: [Arc<dyn ChunkSource>; 1] = [hq.clone()];
    let patient = PatientPeer::new(peer.clone(), Duration::from_secs(30));
    let from_peer: [Arc<dyn ChunkSource>; 2] = [patient, hq.clone()];
    let (a, b) = tokio::join!(
        fetch_image(&index, &from_hq, &target_a, &limits, &quiet),
        fetch_image(&index, &from_peer, &target_b, &limits, &quiet),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.wan_chunks, a.peer_chunks), (24, 0));
    assert_eq!((b.wan_chunks, b.peer_chunks, b.wan_bytes), (0, 24, 0));
    verify_image(&index, &target_b).await.unwrap();
    assert_eq!(hq.asked.load(Ordering::SeqCst), 24, "each chunk crossed the WAN once");
    shelf.put(&template(), &target_a, &index, true);
    assert_eq!(peer.offers(&template()).await, Ok(Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_server_that_falls_silent_is_left_for_hq() {
    let dir = tempfile::tempdir().unwrap();
    let (index, hq) = image(6, Duration::ZERO);
    let empty = dir.path().join("a");
    std::fs::File::create(&empty).unwrap().set_len(index.size).unwrap();
    let shelf = Shelf::default();
    // On offer, but not one byte of it ever arrives there.
    shelf.put(&template(), &empty, &index, false);
    let (peer, served) = serve(&shelf).await;
    let patient = PatientPeer::new(peer, Duration::from_secs(2));
    let sources: [Arc<dyn ChunkSource>; 2] = [patient, hq];
    let target = dir.path().join("b");
    let limits = FetchLimits::default();
    let stats = fetch_image(&index, &sources, &target, &limits, &|_| {}).await.unwrap();
    assert_eq!((stats.wan_chunks, stats.peer_chunks), (6, 0));
    verify_image(&index, &target).await.unwrap();
    served.abort();
}

#[tokio::test]
async fn requests_for_nonsense_are_refused() {
    let (peer_of, _served) = serve(&Shelf::default()).await;
    assert_eq!(peer_of.offers(&template()).await, Ok(None));
    let shelf = Shelf::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let routes = shelf.routes();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |path: &str| {
        http.get(format!("http://{at}{path}")).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/chunks/..%2f..%2fetc%2fpasswd").await, 400);
    assert_eq!(status("/chunks/00").await, 400);
    assert_eq!(status(&format!("/chunks/{}", "0".repeat(64))).await, 404);
}
