// SPDX-License-Identifier: Apache-2.0
//! An HQ on a free loopback port with a published template, and servers that talk to it.

#![allow(dead_code, reason = "each test file uses its own part")]

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use provisioning_catalogue::chunks::ChunkStore;
use provisioning_catalogue::keys::OfflineKeys;
use provisioning_catalogue::template_file::Template;
use provisioning_catalogue::{build, signing};
use provisioning_hq::app::App;
use provisioning_hq::clock::Clock;
use provisioning_hq::files::Folder;
use provisioning_hq::{catalogue, init, jws, serve};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::enrol::{
    HardwareFacts, Jws, REQUEST_VOUCHER_PATH, SIMPLE_ENROLL_PATH, VOUCHER_JWS, Voucher,
    VoucherRequest,
};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::operator::ClaimCodes;
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};
use provisioning_protocol::report::{Event, PairStatus, Report, ServerStatus};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use reqwest::{Client, Method, Response};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Codes of the site `kassel`, which each new HQ has.
pub type Codes = ClaimCodes;

pub struct Hq {
    pub dir: TempDir,
    pub clock: Clock,
    pub app: App,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Hq {
    /// A new HQ with no catalogue.
    pub async fn bare() -> Self {
        provider();
        let dir = TempDir::new().expect("temp dir");
        let folder = Folder::new(dir.path().join("hq"));
        init::init(&folder, &["127.0.0.1".into()], &["https://127.0.0.1:1".into()]).expect("init");
        Self::start(dir, Clock::default()).await
    }

    /// A new HQ with template `shop`, blueprint `branch` and site `kassel`.
    pub async fn with_site() -> (Self, Codes) {
        let hq = Self::bare().await;
        publish_template(&hq.app, hq.dir.path()).await;
        let blueprint = json!({"name": "branch", "vms": [
            {"name": "shop", "template": {"name": "shop", "version": 1}}]});
        let answer = hq.operator(Method::PUT, "/v1/blueprints/branch", &blueprint).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
        let codes = hq.create_site("kassel").await;
        (hq, codes)
    }

    pub async fn create_site(&self, name: &str) -> Codes {
        let site = json!({"name": name, "blueprint": "branch"});
        let answer = self.operator(Method::POST, "/v1/sites", &site).await;
        assert_eq!(answer.status(), 201);
        answer.json().await.expect("claim codes")
    }

    async fn start(dir: TempDir, clock: Clock) -> Self {
        let folder = Folder::new(dir.path().join("hq"));
        let app = serve::open(&folder, clock.clone()).await.expect("HQ opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = app.clone();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve::run(&folder, served, listener, stopped).await.expect("HQ serves");
        });
        Self { dir, clock, app, address, stop: Some(stop), task: Some(task) }
    }

    /// Stops HQ and starts it anew from its folder, on another port.
    pub async fn restart(mut self) -> Self {
        drop(self.stop.take());
        if let Some(task) = self.task.take() {
            task.await.expect("HQ stops");
        }
        let Self { dir, clock, .. } = self;
        Self::start(dir, clock).await
    }

    pub fn folder(&self) -> Folder {
        Folder::new(self.dir.path().join("hq"))
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn root_ca(&self) -> String {
        std::fs::read_to_string(self.folder().root_ca()).expect("root CA")
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.folder().token()).expect("token").trim().to_owned()
    }

    /// A client without a certificate that trusts this HQ.
    pub fn client(&self) -> Client {
        client(&self.root_ca(), None)
    }

    /// An operator's request with a JSON body.
    pub async fn operator(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = self.client().request(method, self.url(path)).bearer_auth(self.token());
        request.json(body).send().await.expect("HQ answers")
    }

    pub async fn operator_get(&self, path: &str) -> Value {
        let request = self.client().get(self.url(path)).bearer_auth(self.token());
        let answer = request.send().await.expect("HQ answers");
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.expect("JSON")
    }

    /// Both servers of the site, enrolled.
    pub async fn enrol_pair(&self, codes: &Codes) -> [Server; 2] {
        let mut a = Server::new("serial-a");
        let mut b = Server::new("serial-b");
        a.enrol(self, &codes.codes[&NodeSlot::A]).await;
        b.enrol(self, &codes.codes[&NodeSlot::B]).await;
        [a, b]
    }
}

/// A box that wants to become a server.
pub struct Server {
    pub serial: String,
    pub key: KeyPair,
    /// PEM of its certificate, once it has one.
    pub cert: Option<String>,
    pub device_id: String,
    pub boot: u64,
    pub seq: u64,
}

impl Server {
    pub fn new(serial: &str) -> Self {
        Self {
            serial: serial.to_owned(),
            key: KeyPair::generate().expect("key"),
            cert: None,
            device_id: String::new(),
            boot: 1,
            seq: 0,
        }
    }

    pub fn request(&self, claim_id: Option<&str>) -> VoucherRequest {
        VoucherRequest {
            nonce: BASE64_STANDARD.encode([7; 32]),
            serial_number: self.serial.clone(),
            device_spki: BASE64_STANDARD.encode(self.key.subject_public_key_info()),
            hw: HardwareFacts::default(),
            agent: "0.1.0".into(),
            image: "1".into(),
            claim_id: claim_id.map(str::to_owned),
            rtc_s: 0,
        }
    }

    pub fn signed(&self, request: &VoucherRequest) -> Jws {
        let key = jws::signing_key(self.key.serialized_der()).expect("P-256");
        jws::sign(&serde_json::to_vec(request).expect("JSON"), &key).expect("signed")
    }

    /// M1 with the code's public part.
    pub async fn ask(&self, hq: &Hq, claim_id: Option<&str>) -> Response {
        let body = self.signed(&self.request(claim_id));
        self.ask_with(hq, &body).await
    }

    pub async fn ask_with(&self, hq: &Hq, body: &Jws) -> Response {
        let request = hq.client().post(hq.url(REQUEST_VOUCHER_PATH));
        let request = request.header("content-type", VOUCHER_JWS);
        request.body(serde_json::to_vec(body).expect("JSON")).send().await.expect("HQ answers")
    }

    pub fn csr(&self) -> String {
        let csr = CertificateParams::default().serialize_request(&self.key).expect("CSR");
        BASE64_STANDARD.encode(csr.der())
    }

    /// M3 with this code.
    pub async fn certify(&self, hq: &Hq, code: &str) -> Response {
        self.certify_with(hq, code, self.csr()).await
    }

    pub async fn certify_with(&self, hq: &Hq, code: &str, csr: String) -> Response {
        let request = hq.client().post(hq.url(SIMPLE_ENROLL_PATH));
        let request = request.header("content-type", "application/pkcs10");
        let request = request.basic_auth(&self.serial, Some(code));
        request.body(csr).send().await.expect("HQ answers")
    }

    /// M1 and M3; checks the voucher as a server would.
    pub async fn enrol(&mut self, hq: &Hq, code: &str) {
        let claim = ClaimCode::parse(code).expect("well-formed code");
        let answer = self.ask(hq, Some(claim.id())).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
        let voucher = voucher(hq, &answer.bytes().await.expect("body"));
        assert_eq!(voucher.nonce, self.request(None).nonce);
        self.device_id = voucher.device_id.0;
        let answer = self.certify(hq, claim.secret()).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
        self.cert = Some(first_cert(&answer.text().await.expect("body")));
    }

    /// A client with this server's certificate.
    pub fn client(&self, hq: &Hq) -> Client {
        client(&hq.root_ca(), Some((self.cert.as_deref().expect("enrolled"), &self.key)))
    }

    pub fn report(&mut self, status: ServerStatus, events: Vec<Event>) -> Report {
        self.seq += 1;
        Report { boot: self.boot, seq: self.seq, status, events }
    }

    pub async fn send(&self, hq: &Hq, report: &Report) -> Response {
        let request = self.client(hq).post(hq.url("/v1/agent/report"));
        request.json(report).send().await.expect("HQ answers")
    }
}

/// A healthy server's status.
pub fn status() -> ServerStatus {
    ServerStatus {
        agent: "0.1.0".into(),
        image: "2026.11.1".into(),
        uptime_s: 60,
        wg_public_key: BASE64_STANDARD.encode([1; 32]),
        lan_addresses: vec!["10.0.2.15".into()],
        revision: 1,
        pair: PairStatus {
            state: PeerState::Pair,
            epoch: Epoch(3),
            in_sync: NodeSlot::BOTH.into_iter().collect(),
            paths: Path::BOTH.into_iter().collect(),
            replication: Some(Path::Cable),
            resync_percent: None,
            cause: "both servers are in sync".into(),
        },
        vms: Vec::new(),
        templates: Vec::new(),
        wan_bytes: 48 * 1024 * 1024,
        peer_bytes: 0,
        problems: Vec::new(),
    }
}

pub fn both() -> BTreeSet<NodeSlot> {
    NodeSlot::BOTH.into_iter().collect()
}

/// Reads an answer that must be a problem document with this status and code.
pub async fn problem(answer: Response, status: u16, code: &str) -> Problem {
    let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
    let (told, text) = (answer.status(), answer.text().await.expect("text"));
    assert_eq!(kind, PROBLEM_JSON, "{text}");
    let problem: Problem = serde_json::from_str(&text).expect("a problem document");
    assert_eq!((told.as_u16(), problem.code.as_str()), (status, code), "{text}");
    assert_eq!(problem.status, status, "{text}");
    problem
}

/// Checks the voucher's signature with the owner bundle's key.
pub fn voucher(hq: &Hq, body: &[u8]) -> Voucher {
    let jws: Jws = serde_json::from_slice(body).expect("a JWS");
    let owner = serve::owner(&hq.folder()).expect("owner bundle");
    let spki = BASE64_STANDARD.decode(&owner.voucher_keys_spki[0]).expect("base64");
    jws::verify(&jws, &spki).expect("signed by HQ's voucher key");
    let payload = BASE64_URL_SAFE_NO_PAD.decode(&jws.payload).expect("base64url");
    serde_json::from_slice(&payload).expect("a voucher")
}

/// The leaf of a certs-only PKCS#7 answer, PEM.
pub fn first_cert(body: &str) -> String {
    certs(body)
        .into_iter()
        .find(|der| {
            let (_, cert) = x509_parser::parse_x509_certificate(der).expect("a certificate");
            !cert.is_ca()
        })
        .map(|der| pem(&der))
        .expect("a leaf")
}

/// All certificates of a certs-only PKCS#7 answer, DER.
pub fn certs(body: &str) -> Vec<Vec<u8>> {
    use der::{Decode, Encode};
    let der = BASE64_STANDARD.decode(body).expect("base64");
    let info = cms::content_info::ContentInfo::from_der(&der).expect("PKCS#7");
    let signed: cms::signed_data::SignedData = info.content.decode_as().expect("SignedData");
    let set = signed.certificates.expect("certificates");
    set.0.iter().map(|choice| choice.to_der().expect("DER")).collect()
}

fn pem(der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

pub fn client(root_ca: &str, identity: Option<(&str, &KeyPair)>) -> Client {
    let mut anchors = rustls::RootCertStore::empty();
    anchors
        .add(CertificateDer::from_pem_slice(root_ca.as_bytes()).expect("PEM"))
        .expect("an anchor");
    let tls = rustls::ClientConfig::builder().with_root_certificates(anchors);
    let mut tls = match identity {
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("PEM");
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            tls.with_client_auth_cert(vec![cert], PrivateKeyDer::Pkcs8(key)).expect("identity")
        }
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("client")
}

pub fn provider() {
    // Each test of a process asks for it; the first one gets it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Builds, signs and publishes template `shop@1` with a small image.
pub async fn publish_template(app: &App, scratch: &std::path::Path) {
    let source = scratch.join("shop");
    std::fs::create_dir_all(&source).expect("folder");
    std::fs::write(source.join("system.raw"), vec![0x5a; 256 * 1024]).expect("image");
    let yaml = "format: 1\nname: shop\nrelease: 1\nfirmware: bios\ncpus: 1\nmemory: 128 MiB\n\
        disks:\n  - {name: system, role: system, image: system.raw}\n  \
        - {name: data, role: data, size: 1 GiB}\nnics: 1\nvariables:\n  ADDRESS: \"\"\n";
    std::fs::write(source.join("template.yaml"), yaml).expect("template.yaml");
    let template = Template::read(&source).expect("template");
    let store = ChunkStore::open(&scratch.join("chunks")).expect("store");
    let manifest = build::build(&template, &store, &mut |_| {}).expect("built");
    let keys = OfflineKeys::create(&scratch.join("keys")).expect("keys");
    let now = Timestamp::now();
    let root = signing::create_root(&keys, &app.online_keys, now).await.expect("root");
    app.catalogue.put_root(&root, now).await.expect("trusted");
    for hash in app.catalogue.put_manifest(&manifest.to_json()).expect("manifest") {
        let packed = store.read_packed(&hash).expect("chunk");
        app.catalogue.chunks().add_packed(&hash, &packed).expect("stored");
    }
    let current = app.catalogue.targets().expect("targets");
    let targets = signing::sign_targets(&keys, &root, current.as_deref(), &[manifest], now)
        .await
        .expect("signed");
    app.catalogue.publish(&targets, now).await.expect("published");
    catalogue::sync_templates(app).await.expect("listed");
}
