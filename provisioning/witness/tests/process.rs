// SPDX-License-Identifier: Apache-2.0
//! The program as it runs on a box, asked by the agent's own client.

use agent_daemon::hq::client::HqClient;
use agent_daemon::hq::reply::{ReplyError, Trust};
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::hq::witness::Witness;
use data_encoding::BASE64;
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName};
use provisioning_protocol::local_witness::{BoxAdmission, box_name, place_uri};
use provisioning_protocol::witness::WitnessSwap;
use provisioning_witness::identity::Identity;
use provisioning_witness::keys::Keys;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
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

    fn leaf(&self, key: &KeyPair, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        params.signed_by(key, &self.issuer).unwrap().pem()
    }

    /// Makes a folder an enrolled box's of this site; gives the key that it signs with.
    fn fit(&self, dir: &Path, name: &str) -> String {
        let keys = Keys::load_or_make(dir).unwrap();
        let san = SanType::DnsName(box_name(&site(name)).try_into().unwrap());
        let tls = KeyPair::try_from(keys.tls_der().as_slice()).unwrap();
        let chain_pem = self.leaf(&tls, vec![san], ExtendedKeyUsagePurpose::ServerAuth);
        let admission = BoxAdmission {
            site: site(name),
            address: "127.0.0.1:0".parse().unwrap(),
            chain_pem,
            client_ca_pem: self.pem.clone(),
        };
        Identity::keep(dir, &admission).unwrap();
        BASE64.encode(&keys.signing_spki())
    }

    /// A server's way to a box that it takes for the one of `to`.
    fn server(&self, of: &str, slot: NodeSlot, to: &str, running: &Box) -> Witness {
        let uri = place_uri(&site(of), slot).try_into().unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = self.leaf(&key, vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth);
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let (memory, name) = (Arc::new(TlsMemory::default()), box_name(&site(to)));
        let trust = Trust::new(&site(of), slot, [running.key.as_str()]);
        let client = HqClient::pinned(&name, running.at, &self.pem, memory, (chain, key));
        Witness::new(client.unwrap(), trust)
    }
}

/// The program: this build's, or another one that is to be tested.
fn program() -> OsString {
    let other = std::env::var_os("FORECOURT_WITNESS");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_forecourt-witness").into())
}

/// The program; killed when dropped.
struct Box {
    child: Child,
    at: SocketAddr,
    /// What the servers are told that it signs with.
    key: String,
}

impl Box {
    fn start(dir: &Path, key: &str) -> Self {
        let mut child = Command::new(program())
            .args(["run", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let at = line.trim().strip_prefix("listening on ").expect("an address").parse().unwrap();
        Self { child, at, key: key.to_owned() }
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
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
    let key = ca.fit(dir.path(), "oslo");
    for round in 0..4 {
        let at = round * 2 + 1;
        let running = Box::start(dir.path(), &key);
        let a = ca.server("oslo", NodeSlot::A, "oslo", &running);
        let b = ca.server("oslo", NodeSlot::B, "oslo", &running);
        assert!(a.swap(&publish(at)).await.expect("an answer").granted);
        let (claim_a, claim_b) = (claim(NodeSlot::A, at), claim(NodeSlot::B, at));
        let (from_a, from_b) = tokio::join!(a.swap(&claim_a), b.swap(&claim_b));
        let (from_a, from_b) = (from_a.expect("an answer"), from_b.expect("an answer"));
        assert!(from_a.granted ^ from_b.granted, "round {round}: {from_a:?} {from_b:?}");
        drop(running);
        let running = Box::start(dir.path(), &key);
        let b = ca.server("oslo", NodeSlot::B, "oslo", &running);
        let record = b.record().await.expect("a record");
        assert_eq!((record.winner, record.epoch), (from_a.record.winner, Epoch(at + 1)));
        assert_eq!(b.swap(&claim_b).await.expect("an answer").granted, from_b.granted);
    }
}

#[tokio::test]
async fn other_sites_other_owners_and_other_slots_get_nothing() {
    let (dir, ca, stranger) = (tempfile::tempdir().unwrap(), Ca::new(), Ca::new());
    let key = ca.fit(dir.path(), "oslo");
    let running = Box::start(dir.path(), &key);
    let at = &running;
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

#[tokio::test]
async fn another_box_s_key_is_not_believed_and_a_folder_has_one_site() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    let key = ca.fit(dir.path(), "oslo");
    let mut running = Box::start(dir.path(), &key);
    assert!(ca.server("oslo", NodeSlot::A, "oslo", &running).record().await.is_some());
    // The box that HQ has enrolled since; this one's certificate is as good as ever.
    running.key = BASE64.encode(&Keys::load_or_make(&dir.path().join("b")).unwrap().signing_spki());
    let a = ca.server("oslo", NodeSlot::A, "oslo", &running);
    assert_eq!(a.record().await, None);
    assert_eq!(a.disbelieved(), Some(ReplyError::Forged));
    let other = Identity::load(dir.path()).unwrap().admission;
    let other = BoxAdmission { site: site("kassel"), ..other };
    assert!(Identity::keep(dir.path(), &other).is_err());
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
    ca.fit(dir.path(), "oslo");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(dir.path().join("keys.json"), mode).unwrap();
    let ended = Command::new(program()).args(["run", "--dir"]).arg(dir.path()).output().unwrap();
    assert!(!ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("chmod 600"));
}
