// SPDX-License-Identifier: Apache-2.0
//! The agent's own code against this HQ: both sides of the contract in one process.

use crate::support::{Codes, Hq, both};
use agent_daemon::enrol::flow::{EnrolError, Enroller, client_for, witness_client_for};
use agent_daemon::hq::client::{Call, HqError};
use agent_daemon::hq::reply::Trust;
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::hq::witness::Witness;
use agent_daemon::identity::hardware::Hardware;
use agent_daemon::identity::key::DeviceKey;
use agent_daemon::identity::stick::Stick;
use jiff::Timestamp;
use provisioning_catalogue::client::{Catalogue, CatalogueConfig};
use provisioning_catalogue::fetch::{FetchLimits, fetch_image};
use provisioning_catalogue::source::{ChunkSource, HttpChunks};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::desired::Desired;
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::status::Enrolment;
use provisioning_protocol::witness::WitnessSwap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn enroller(dir: &TempDir) -> Enroller {
    Enroller {
        identity_dir: dir.path().to_owned(),
        key: Arc::new(DeviceKey::load_or_make(dir.path()).expect("device key")),
        hardware: Hardware { serial: "SN-1".into(), facts: Default::default() },
        image: "test".into(),
        memory: Arc::new(TlsMemory::default()),
        set_clock: |_| Ok(false),
    }
}

async fn stick(hq: &Hq, codes: &Codes) -> Stick {
    let owner = hq.operator_get("/v1/owner-bundle").await;
    let owner: OwnerBundle = serde_json::from_value(owner).expect("an owner bundle");
    let claim = ClaimCode::parse(&codes.codes[&NodeSlot::A]).expect("a claim code");
    Stick { claim, owner: OwnerBundle { hq_urls: vec![hq.url("")], ..owner } }
}

#[tokio::test]
async fn an_agent_enrols_polls_witnesses_and_fetches_its_template() {
    let (hq, codes) = Hq::with_site().await;
    let dir = TempDir::new().expect("temp dir");
    let agent = enroller(&dir);
    let record = agent.attempt(&stick(&hq, &codes).await).await.expect("enrolled");
    assert_eq!((record.site.as_str(), record.slot), ("kassel", NodeSlot::A));
    let client = client_for(&record, &agent.key, agent.memory.clone()).expect("client");
    let answer = client.call(Call::get("/v1/agent/desired?wait=0")).await.expect("desired");
    let desired: Desired = serde_json::from_slice(&answer.body).expect("desired state");
    assert_eq!(answer.etag, Some(format!("\"{}\"", desired.revision)));
    let url = hq.url("/").parse::<reqwest::Url>().expect("URL");
    let mut catalogue = Catalogue::open(CatalogueConfig {
        folder: dir.path().join("tuf"),
        root_json: record.owner.tuf_root_json.clone().into_bytes(),
        hq_urls: vec![url.clone()],
        http: client.http().clone(),
    })
    .await
    .expect("catalogue opens");
    catalogue.refresh().await.expect("catalogue fetched");
    let template = &desired.vms[0].template;
    let manifest = catalogue
        .manifest_for_install(template, None, Timestamp::now())
        .await
        .expect("manifest fetched");
    let chunks = url.join("chunks").expect("URL");
    let source: Arc<dyn ChunkSource> = Arc::new(HttpChunks::hq(chunks, client.http().clone()));
    let target = dir.path().join("image");
    let limits = FetchLimits::default();
    let image = manifest.system_image();
    let file = std::fs::File::create(&target).expect("target");
    file.set_len(image.size).expect("as long as the image");
    fetch_image(image, &[source], &target, &limits, &|_| {}).await.expect("image fetched");
    assert_eq!(std::fs::read(&target).expect("image"), vec![0x5a; 256 * 1024]);
}

#[tokio::test]
async fn an_agent_gets_its_grant_in_time() {
    let (hq, codes) = Hq::with_site().await;
    let dir = TempDir::new().expect("temp dir");
    let agent = enroller(&dir);
    let record = agent.attempt(&stick(&hq, &codes).await).await.expect("enrolled");
    let client = witness_client_for(&record, &agent.key, agent.memory.clone()).expect("client");
    let keys = record.owner.voucher_keys_spki.iter().map(String::as_str);
    let witness = Witness::new(client, Trust::new(&record.site, record.slot, keys));
    assert_eq!(witness.record().await.expect("a record").epoch, Epoch(0));
    let mut slowest = Duration::ZERO;
    for round in 0..20_u64 {
        let at = round * 2 + 1;
        let publish = WitnessSwap {
            request_id: at,
            by: NodeSlot::A,
            expect_epoch: Epoch(0),
            epoch: Epoch(at),
            in_sync: both(),
            winner: None,
        };
        assert!(witness.swap(&publish).await.expect("an answer").granted);
        let claim = WitnessSwap {
            request_id: at + 1,
            expect_epoch: Epoch(at),
            epoch: Epoch(at + 1),
            in_sync: [NodeSlot::A].into(),
            winner: Some(NodeSlot::A),
            ..publish
        };
        let begun = Instant::now();
        assert!(witness.swap(&claim).await.expect("an answer").granted);
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest grant of 20: {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test]
async fn an_agent_tells_a_wrong_code_from_another_hq() {
    let (hq, codes) = Hq::with_site().await;
    let (other, other_codes) = Hq::with_site().await;
    let dir = TempDir::new().expect("temp dir");
    let agent = enroller(&dir);
    let right = stick(&hq, &codes).await;
    // A well-formed code of another HQ.
    let foreign = ClaimCode::parse(&other_codes.codes[&NodeSlot::A]).expect("a claim code");
    let wrong = Stick { claim: foreign, ..right.clone() };
    let error = agent.attempt(&wrong).await.expect_err("refused");
    assert_eq!(error.stage(), Enrolment::Refused);
    assert!(matches!(&error, EnrolError::Hq(HqError::Refused(p)) if p.code == "bad_claim"));
    let owner = OwnerBundle { hq_root_ca_pem: other.root_ca(), ..right.owner.clone() };
    let error = agent.attempt(&Stick { owner, ..right.clone() }).await.expect_err("refused");
    assert!(matches!(&error, EnrolError::Hq(HqError::WrongCa { .. })), "{error}");
    agent.attempt(&right).await.expect("the right stick still works");
}
