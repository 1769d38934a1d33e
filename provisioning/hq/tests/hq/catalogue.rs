// SPDX-License-Identifier: Apache-2.0
//! The catalogue over HTTP.

use crate::support::{Hq, problem};
use provisioning_catalogue::chunks::{ChunkHash, pack, unpack};
use provisioning_catalogue::manifest::Extent;
use reqwest::Method;

#[tokio::test]
async fn a_server_reads_metadata_manifest_and_chunks() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    let get = |path: String| a.client(&hq).get(hq.url(&path)).send();
    for file in ["1.root.json", "timestamp.json"] {
        let answer = get(format!("/catalogue/metadata/{file}")).await.expect("answer");
        assert_eq!(answer.status(), 200, "{file}");
    }
    let missing = get("/catalogue/metadata/2.root.json".into()).await.expect("answer");
    problem(missing, 404, "not_found").await;
    let template = serde_json::from_str(r#"{"name": "shop", "version": 1}"#).expect("ref");
    let manifest = hq.app.catalogue.manifest(&template).expect("published");
    let mut read = 0;
    for extent in &manifest.system_image().extents {
        let Extent::Chunk { hash, length, .. } = extent else { continue };
        let answer = get(format!("/chunks/{}", hash.path())).await.expect("answer");
        assert_eq!(answer.status(), 200);
        let packed = answer.bytes().await.expect("body");
        let length = usize::try_from(*length).expect("fits");
        read += unpack(hash, length, &packed).expect("the chunk").len();
    }
    assert_eq!(read, 256 * 1024);
}

#[tokio::test]
async fn nothing_outside_the_catalogue_can_be_read() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    for path in [
        "/catalogue/metadata/..%2Foperator.token",
        "/catalogue/metadata/%2e%2e%2f%2e%2e%2foperator.token",
        "/catalogue/targets/..%2F..%2F..%2Foperator.token",
        "/catalogue/targets/tpl/%2e%2e/%2e%2e/operator.token",
        "/chunks/..%2F..%2Foperator.token",
        "/chunks/ab/..%2f..%2f..%2foperator.token",
        "/assets/..%2Foperator.token",
    ] {
        let answer = a.client(&hq).get(hq.url(path)).send().await.expect("answer");
        problem(answer, 404, "not_found").await;
    }
}

#[tokio::test]
async fn a_chunk_must_hash_to_its_name() {
    let (hq, _) = Hq::with_site().await;
    let (good, other) = (vec![1_u8; 9000], vec![2_u8; 9000]);
    let hash = ChunkHash::of(&good);
    let put = |path: String, body: Vec<u8>| {
        hq.client().request(Method::PUT, hq.url(&path)).bearer_auth(hq.token()).body(body).send()
    };
    let path = format!("/chunks/{}", hash.path());
    for bad in [pack(&other, 3), good.clone(), Vec::new(), vec![0x28, 0xb5, 0x2f, 0xfd]] {
        problem(put(path.clone(), bad).await.expect("answer"), 422, "bad_chunk").await;
    }
    let bomb = pack(&vec![0; 64 * 1024 * 1024], 3);
    problem(put(path.clone(), bomb).await.expect("answer"), 422, "bad_chunk").await;
    let huge = vec![0; 1024 * 1024];
    problem(put(path.clone(), huge).await.expect("answer"), 413, "too_large").await;
    let swapped = format!("/chunks/zz/{hash}");
    problem(put(swapped, pack(&good, 3)).await.expect("answer"), 422, "invalid").await;
    assert_eq!(put(path, pack(&good, 3)).await.expect("answer").status(), 204);
}

#[tokio::test]
async fn targets_not_signed_by_the_trusted_keys_are_refused() {
    let (hq, _) = Hq::with_site().await;
    let published = hq.app.catalogue.targets().expect("readable").expect("there");
    let put = |body: Vec<u8>| {
        let request = hq.client().put(hq.url("/v1/catalogue/targets")).bearer_auth(hq.token());
        request.body(body).send()
    };
    let mut flipped = published.clone();
    let at = flipped.windows(6).position(|w| w == b"length").expect("there") + 9;
    flipped[at] ^= 1;
    problem(put(flipped).await.expect("answer"), 422, "refused").await;
    problem(put(b"{}".to_vec()).await.expect("answer"), 422, "refused").await;
    problem(put(Vec::new()).await.expect("answer"), 422, "refused").await;
    assert_eq!(hq.app.catalogue.targets().expect("readable").expect("there"), published);
    assert_eq!(hq.operator_get("/v1/templates").await.as_array().expect("list").len(), 1);
}

#[tokio::test]
async fn a_server_may_not_write_to_the_catalogue() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    for path in ["/v1/catalogue/targets", "/v1/catalogue/root", "/v1/catalogue/manifests"] {
        let answer = a.client(&hq).put(hq.url(path)).body("{}").send().await.expect("answer");
        problem(answer, 401, "no_token").await;
    }
}

#[tokio::test]
async fn the_owner_bundle_holds_the_root_once_there_is_one() {
    let bare = Hq::bare().await;
    let answer = bare.client().get(bare.url("/v1/owner-bundle")).bearer_auth(bare.token()).send();
    problem(answer.await.expect("answer"), 409, "no_root").await;
    let (hq, _) = Hq::with_site().await;
    let bundle = hq.operator_get("/v1/owner-bundle").await;
    assert!(bundle["tuf_root_json"].as_str().expect("text").contains("signatures"));
    assert_eq!(bundle["hq_root_ca_pem"].as_str(), Some(hq.root_ca().as_str()));
}
