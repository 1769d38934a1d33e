// SPDX-License-Identifier: Apache-2.0
//! A witness on site is let in with a claim code, by the box's own code.

use crate::support::{Hq, Server, problem};
use agent_daemon::hq::client::HqClient;
use agent_daemon::hq::reply::Trust;
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::hq::witness::Witness;
use axum::http::Uri;
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::desired::Desired;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::local_witness::{BOX_ENROL_PATH, WitnessBoxClaim, box_name};
use provisioning_witness::identity::Identity;
use provisioning_witness::keys::Keys;
use provisioning_witness::store::Store;
use provisioning_witness::{enrol, serve};
use reqwest::Method;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;

async fn ask(hq: &Hq, address: &str) -> WitnessBoxClaim {
    let path = "/v1/sites/kassel/witness-box";
    let answer = hq.operator(Method::PUT, path, &json!({"address": address})).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("a claim")
}

async fn let_in(hq: &Hq, dir: &Path, ca: &str, code: &str) -> Result<(), String> {
    let at: Uri = hq.url("").parse().expect("URL");
    match enrol::enrol(dir, &at, ca, code).await {
        Ok(given) => {
            assert_eq!(given.site.as_str(), "kassel");
            Ok(())
        }
        Err(error) => Err(format!("{error:#}")),
    }
}

async fn desired(hq: &Hq, server: &Server) -> Desired {
    let request = server.client(hq).get(hq.url("/v1/agent/desired?wait=0"));
    request.send().await.expect("HQ answers").json().await.expect("desired state")
}

/// A server's way to the box that HQ names, with what HQ gave the server.
fn way(hq: &Hq, server: &Server, told: &Desired, slot: NodeSlot) -> Witness {
    let told_box = told.local_witness.as_ref().expect("a witness on site");
    let cert = CertificateDer::from_pem_slice(server.cert.as_deref().expect("cert").as_bytes());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.key.serialize_der()));
    let (name, memory) = (box_name(&told.site), Arc::new(TlsMemory::default()));
    let identity = (vec![cert.expect("PEM")], key);
    let client = HqClient::pinned(&name, told_box.address, &hq.root_ca(), memory, identity);
    Witness::new(client.expect("a client"), Trust::new(&told.site, slot, [&*told_box.key_spki]))
}

#[tokio::test]
async fn a_box_makes_its_keys_is_let_in_and_answers_the_servers_that_hq_tells() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let at = listener.local_addr().expect("address").to_string();
    let claim = ask(&hq, &at).await;
    assert_eq!(desired(&hq, &a).await.local_witness, None, "no box has used the code yet");
    let dir = TempDir::new().expect("temp dir");
    let_in(&hq, dir.path(), &claim.ca_sha256, &claim.code).await.expect("let in");
    let told = desired(&hq, &a).await;
    let identity = Identity::load(dir.path()).expect("enrolled");
    let store = Store::open(&dir.path().join("record"), &told.site).expect("a record");
    tokio::spawn(async move { serve::serve(listener, &identity, store).await });
    let witness = way(&hq, &a, &told, NodeSlot::A);
    assert_eq!(witness.record().await.expect("a signed record").version, 0);
    // The admission holds nothing that is secret, and HQ holds no key.
    let given = std::fs::read_to_string(dir.path().join("admission.json")).expect("it");
    assert!(!given.contains("PRIVATE KEY"));
    // The same box again: a lost answer, or a certificate that ends soon.
    let revision = told.revision;
    let_in(&hq, dir.path(), &claim.ca_sha256, &claim.code).await.expect("let in again");
    assert_eq!(desired(&hq, &a).await.revision, revision, "nothing new for the servers");
    let path = "/v1/sites/kassel/witness-box";
    assert_eq!(hq.operator(Method::DELETE, path, &json!(null)).await.status(), 204);
    assert_eq!(desired(&hq, &a).await.local_witness, None);
    let error = let_in(&hq, dir.path(), &claim.ca_sha256, &claim.code).await.expect_err("gone");
    assert!(error.contains("claim code"), "{error}");
}

#[tokio::test]
async fn a_code_is_for_one_box_and_a_new_one_replaces_the_box_only_when_used() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    let (one, two) = (TempDir::new().expect("dir"), TempDir::new().expect("dir"));
    let first = ask(&hq, "192.0.2.9:7443").await;
    let_in(&hq, one.path(), &first.ca_sha256, &first.code).await.expect("let in");
    let error = let_in(&hq, two.path(), &first.ca_sha256, &first.code).await.expect_err("used");
    assert!(error.contains("used by another box"), "{error}");
    let before = desired(&hq, &a).await.local_witness.expect("a box");
    let second = ask(&hq, "192.0.2.10:7443").await;
    assert_eq!(desired(&hq, &a).await.local_witness.as_ref(), Some(&before), "still in service");
    let error = let_in(&hq, one.path(), &first.ca_sha256, &first.code).await.expect_err("old");
    assert!(error.contains("claim code"), "{error}");
    let_in(&hq, two.path(), &second.ca_sha256, &second.code).await.expect("let in");
    let after = desired(&hq, &a).await.local_witness.expect("a box");
    assert_eq!(after.address.to_string(), "192.0.2.10:7443");
    assert_ne!(after.key_spki, before.key_spki, "the first box's replies count no more");
}

#[tokio::test]
async fn wrong_old_and_guessed_codes_let_nobody_in() {
    let (hq, _) = Hq::with_site().await;
    let dir = TempDir::new().expect("dir");
    let claim = ask(&hq, "192.0.2.9:7443").await;
    // Another HQ in the way: the code never leaves the box.
    let other = Hq::bare().await;
    let error = let_in(&other, dir.path(), &claim.ca_sha256, &claim.code).await.expect_err("other");
    assert!(error.contains("certificate is refused"), "{error}");
    let error = let_in(&hq, dir.path(), "abcd", &claim.code).await.expect_err("no hash");
    assert!(error.contains("64 hex digits"), "{error}");
    // Codes with the same public part.
    let mut bytes = [0; 15];
    for (at, c) in claim.code.chars().filter(char::is_ascii_alphanumeric).take(4).enumerate() {
        let alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        bytes[at] = u8::try_from(alphabet.find(c).expect("base32")).expect("small");
    }
    for last in 0..10 {
        bytes[14] = last;
        let guess = ClaimCode::from_random(&bytes).grouped();
        let error = let_in(&hq, dir.path(), &claim.ca_sha256, &guess).await.expect_err("a guess");
        assert!(error.contains("claim code"), "{error}");
    }
    let error = let_in(&hq, dir.path(), &claim.ca_sha256, &claim.code).await.expect_err("void");
    assert!(error.contains("tried too often"), "{error}");
    let late = ask(&hq, "192.0.2.9:7443").await;
    hq.clock.shift_ms(14 * 24 * 3_600_000 + 1);
    let error = let_in(&hq, dir.path(), &late.ca_sha256, &late.code).await.expect_err("late");
    assert!(error.contains("older than 14 days"), "{error}");
}

#[tokio::test]
async fn what_is_no_box_s_request_is_refused() {
    let (hq, _) = Hq::with_site().await;
    let claim = ask(&hq, "192.0.2.9:7443").await;
    let (one, two) = (TempDir::new().expect("dir"), TempDir::new().expect("dir"));
    let keys = Keys::load_or_make(one.path()).expect("keys");
    let others = Keys::load_or_make(two.path()).expect("keys");
    let send = async |body: Vec<u8>| {
        let request = hq.client().post(hq.url(BOX_ENROL_PATH));
        let request = request.header("content-type", "application/json");
        request.body(body).send().await.expect("HQ answers")
    };
    // Signed by one box's key over what names another's.
    let mut mixed = keys.request(&claim.code).expect("signed");
    mixed.payload = others.request(&claim.code).expect("signed").payload;
    problem(send(serde_json::to_vec(&mixed).expect("JSON")).await, 422, "bad_jws").await;
    problem(send(b"{".to_vec()).await, 400, "bad_request").await;
    problem(send(vec![b' '; 17 * 1024]).await, 413, "too_large").await;
    let right = keys.request(&claim.code).expect("signed");
    assert_eq!(send(serde_json::to_vec(&right).expect("JSON")).await.status(), 200);
}

#[tokio::test]
async fn an_agent_from_before_signed_replies_is_answered_and_a_senseless_nonce_is_not() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    let get = || a.client(&hq).get(hq.url("/v1/agent/witness"));
    let answer = get().send().await.expect("HQ answers");
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("forecourt-signature")),
        (200, None)
    );
    let answer = get().header("forecourt-nonce", "x").send().await.expect("HQ answers");
    problem(answer, 400, "bad_request").await;
    let answer = get().header("forecourt-nonce", "0".repeat(64)).send().await.expect("HQ answers");
    assert_eq!(answer.headers()["forecourt-signature"].len(), 128);
}
