// SPDX-License-Identifier: Apache-2.0
//! The program as it runs on a box, asked by the agent's own client.

use agent_daemon::hq::client::HqClient;
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::hq::witness::Witness;
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName};
use provisioning_protocol::local_witness::{WitnessBundle, box_name, place_uri};
use provisioning_protocol::witness::WitnessSwap;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

fn site(name: &str) -> SiteName {
    SiteName::new(name).unwrap()
}

/// An owner's CA.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn bundle(&self, name: &str) -> WitnessBundle {
        let san = SanType::DnsName(box_name(&site(name)).try_into().unwrap());
        let (chain_pem, key_pem) = self.leaf(vec![san], ExtendedKeyUsagePurpose::ServerAuth);
        WitnessBundle {
            site: site(name),
            address: "127.0.0.1:0".parse().unwrap(),
            chain_pem,
            key_pem,
            client_ca_pem: self.pem.clone(),
        }
    }

    /// A server's way to a box that it takes for the one of `to`.
    fn server(&self, of: &str, slot: NodeSlot, to: &str, at: SocketAddr) -> Witness {
        let uri = place_uri(&site(of), slot).try_into().unwrap();
        let (cert, key) = self.leaf(vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth);
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let memory = Arc::new(TlsMemory::default());
        let name = box_name(&site(to));
        Witness::new(HqClient::pinned(&name, at, &self.pem, memory, (chain, key)).unwrap())
    }
}

/// The program; killed when dropped.
struct Box(Child, SocketAddr);

impl Box {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_forecourt-witness"))
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("listening on ").expect("an address").parse().unwrap();
        Self(child, at)
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn fit(dir: &Path, bundle: &WitnessBundle) {
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(0o600).open(dir.join("bundle.json")).unwrap();
    file.write_all(&serde_json::to_vec(bundle).unwrap()).unwrap();
}

fn publish(epoch: u64) -> WitnessSwap {
    WitnessSwap {
        request_id: epoch,
        by: NodeSlot::A,
        expect_epoch: Epoch(0),
        epoch: Epoch(epoch),
        in_sync: NodeSlot::BOTH.into(),
        winner: None,
    }
}

fn claim(by: NodeSlot, at: u64) -> WitnessSwap {
    WitnessSwap {
        request_id: 100 + at,
        by,
        expect_epoch: Epoch(at),
        epoch: Epoch(at + 1),
        in_sync: [by].into(),
        winner: Some(by),
    }
}

#[tokio::test]
async fn of_two_claims_one_wins_and_a_kill_does_not_forget_it() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    fit(dir.path(), &ca.bundle("oslo"));
    for round in 0..4 {
        let at = round * 2 + 1;
        let running = Box::start(dir.path());
        let a = ca.server("oslo", NodeSlot::A, "oslo", running.1);
        let b = ca.server("oslo", NodeSlot::B, "oslo", running.1);
        assert!(a.swap(&publish(at)).await.expect("an answer").granted);
        let (claim_a, claim_b) = (claim(NodeSlot::A, at), claim(NodeSlot::B, at));
        let (from_a, from_b) = tokio::join!(a.swap(&claim_a), b.swap(&claim_b));
        let (from_a, from_b) = (from_a.expect("an answer"), from_b.expect("an answer"));
        assert!(from_a.granted ^ from_b.granted, "round {round}: {from_a:?} {from_b:?}");
        drop(running);
        let running = Box::start(dir.path());
        let b = ca.server("oslo", NodeSlot::B, "oslo", running.1);
        let record = b.record().await.expect("a record");
        assert_eq!((record.winner, record.epoch), (from_a.record.winner, Epoch(at + 1)));
        assert_eq!(b.swap(&claim_b).await.expect("an answer").granted, from_b.granted);
    }
}

#[tokio::test]
async fn other_sites_other_owners_and_other_slots_get_nothing() {
    let (dir, ca, stranger) = (tempfile::tempdir().unwrap(), Ca::new(), Ca::new());
    fit(dir.path(), &ca.bundle("oslo"));
    let running = Box::start(dir.path());
    let at = running.1;
    assert!(ca.server("oslo", NodeSlot::A, "oslo", at).record().await.is_some());
    assert!(ca.server("kassel", NodeSlot::A, "oslo", at).record().await.is_none(), "other site");
    assert!(stranger.server("oslo", NodeSlot::A, "oslo", at).record().await.is_none(), "other CA");
    assert!(ca.server("kassel", NodeSlot::A, "kassel", at).record().await.is_none(), "other box");
    let a = ca.server("oslo", NodeSlot::A, "oslo", at);
    assert!(a.swap(&publish(1)).await.expect("an answer").granted);
    assert!(a.swap(&claim(NodeSlot::B, 1)).await.is_none(), "another server's slot");
    let mut long = claim(NodeSlot::A, 1);
    long.request_id = u64::MAX;
    assert!(a.swap(&long).await.is_some_and(|answer| answer.granted));
}

#[test]
fn a_bundle_that_others_may_read_is_refused() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    fit(dir.path(), &ca.bundle("oslo"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(dir.path().join("bundle.json"), mode).unwrap();
    let program = env!("CARGO_BIN_EXE_forecourt-witness");
    let ended = Command::new(program).arg("--dir").arg(dir.path()).output().unwrap();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("chmod 600"));
}
