// SPDX-License-Identifier: Apache-2.0
//! A small HQ over real TLS on loopback, which can be told to misbehave.
#![allow(dead_code, reason = "each test binary uses its part")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use der::{Decode as _, Encode as _};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::enrol::*;
use provisioning_protocol::ids::{DeviceId, NodeSlot, SiteName};
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub const DEVICE: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
pub const NOW_S: u64 = 1_900_000_000;

/// What the fake does wrong.
#[derive(Default)]
pub struct Faults {
    /// Changes the voucher before it is signed.
    pub voucher: Option<fn(&mut Voucher)>,
    /// Signs with a key the owner bundle does not name.
    pub strange_signer: bool,
    /// Answers M1 with this.
    pub refuse: Option<(u16, &'static str, Option<u32>)>,
    /// Names another device in the certificate.
    pub other_device: bool,
    /// The certificate ends in 2027.
    pub short: bool,
}

pub struct FakeHq {
    pub at: SocketAddr,
    pub claim: ClaimCode,
    pub owner: OwnerBundle,
    pub faults: Arc<Mutex<Faults>>,
    /// Requests that came, in order.
    pub log: Arc<Mutex<Vec<&'static str>>>,
}

struct Inner {
    root: Ca,
    issuing: Ca,
    voucher_key: EcdsaKeyPair,
    claim: ClaimCode,
    faults: Arc<Mutex<Faults>>,
    log: Arc<Mutex<Vec<&'static str>>>,
}

struct Ca {
    key: KeyPair,
    pem: String,
    der: Vec<u8>,
}

impl Ca {
    fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let cert = ca(name).self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().to_vec(), key }
    }

    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).unwrap();
        let cert = ca(name).signed_by(&key, &issuer).unwrap();
        Self { pem: cert.pem(), der: cert.der().to_vec(), key }
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub fn ec_key() -> EcdsaKeyPair {
    let rng = SystemRandom::new();
    let p8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, p8.as_ref()).unwrap()
}

pub fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    use aws_lc_rs::encoding::AsDer as _;
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

impl FakeHq {
    /// Starts one; `expired` gives it a TLS certificate whose dates have passed.
    pub async fn start(expired: bool) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let root = Ca::root("Fake root");
        let issuing = root.below("Fake issuing");
        let voucher_key = ec_key();
        let claim = ClaimCode::from_random(&[3; 15]);
        let (faults, log) = (Arc::<Mutex<Faults>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let owner = OwnerBundle {
            v: 1,
            hq_urls: vec![format!("https://{at}")],
            hq_root_ca_pem: root.pem.clone(),
            voucher_keys_spki: vec![STANDARD.encode(spki(&voucher_key))],
            tuf_root_json: "{}".into(),
            build_epoch_s: NOW_S - 1_000_000,
        };
        let tls = tls(&issuing, expired);
        let inner = Arc::new(Inner {
            root,
            issuing,
            voucher_key,
            claim: claim.clone(),
            faults: faults.clone(),
            log: log.clone(),
        });
        let app = Router::new()
            .route(REQUEST_VOUCHER_PATH, post(voucher))
            .route(CACERTS_PATH, get(authorities))
            .route(SIMPLE_ENROLL_PATH, post(certificate))
            .route(SIMPLE_REENROLL_PATH, post(renewal))
            .route(ENROLL_STATUS_PATH, post(status))
            .with_state(inner);
        let listener = TlsListener { listener, acceptor: TlsAcceptor::from(tls) };
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { at, claim, owner, faults, log }
    }
}

/// Serves these routes with a certificate of an owner's CA, as HQ would, or whoever has stolen HQ's
/// TLS key. The address and the CA.
pub async fn serve(app: Router) -> (SocketAddr, String) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let root = Ca::root("Fake root");
    let acceptor = TlsAcceptor::from(tls(&root.below("Fake issuing"), false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(TlsListener { listener, acceptor }, app).await });
    (at, root.pem)
}

fn tls(issuing: &Ca, expired: bool) -> Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let issuer = Issuer::from_ca_cert_pem(&issuing.pem, &issuing.key).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let chain = vec![cert.der().clone(), CertificateDer::from(issuing.der.clone())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, from) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn problem(status: u16, code: &str, retry: Option<u32>) -> Response {
    let body = Problem::new(status, code, "Refused", format!("the fake says {code}"));
    let mut answer = (
        StatusCode::from_u16(status).unwrap(),
        [(header::CONTENT_TYPE, PROBLEM_JSON)],
        serde_json::to_vec(&body).unwrap(),
    )
        .into_response();
    if let Some(seconds) = retry {
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

async fn voucher(State(hq): State<Arc<Inner>>, body: axum::body::Bytes) -> Response {
    hq.log.lock().unwrap().push("M1");
    let faults = hq.faults.lock().unwrap();
    if let Some((status, code, retry)) = faults.refuse {
        return problem(status, code, retry);
    }
    let jws: Jws = serde_json::from_slice(&body).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(&jws.payload).unwrap();
    let request: VoucherRequest = serde_json::from_slice(&payload).unwrap();
    let key = STANDARD.decode(&request.device_spki).unwrap();
    agent_daemon::enrol::jws::verify(&jws, &[key]).expect("the request is signed by its key");
    assert_eq!(request.claim_id.as_deref(), Some(hq.claim.id()));
    let mut voucher = Voucher {
        serial_number: request.serial_number,
        nonce: request.nonce,
        device_spki: request.device_spki,
        created_on_s: NOW_S,
        expires_on_s: NOW_S + 1200,
        assertion: "logged".into(),
        pinned_domain_cert: hq.root.pem.clone(),
        device_id: DeviceId(DEVICE.into()),
        site: SiteName::new("oslo").unwrap(),
        slot: NodeSlot::B,
    };
    if let Some(change) = faults.voucher {
        change(&mut voucher);
    }
    let strange = ec_key();
    let key = if faults.strange_signer { &strange } else { &hq.voucher_key };
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&voucher).unwrap());
    let protected = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256"}"#);
    let message = format!("{protected}.{payload}");
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
    axum::Json(Jws { payload, signatures: vec![JwsSignature { protected, signature }] })
        .into_response()
}

fn certs_only(certs: &[Vec<u8>]) -> Response {
    let certs: Vec<_> =
        certs.iter().map(|der| x509_cert::Certificate::from_der(der).unwrap()).collect();
    let info = cms::content_info::ContentInfo::try_from(certs).unwrap();
    STANDARD.encode(info.to_der().unwrap()).into_response()
}

async fn authorities(State(hq): State<Arc<Inner>>) -> Response {
    hq.log.lock().unwrap().push("M2");
    certs_only(&[hq.root.der.clone(), hq.issuing.der.clone()])
}

async fn certificate(
    State(hq): State<Arc<Inner>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    hq.log.lock().unwrap().push("M3");
    let basic = headers[header::AUTHORIZATION].to_str().unwrap();
    let basic = STANDARD.decode(basic.strip_prefix("Basic ").unwrap()).unwrap();
    let basic = String::from_utf8(basic).unwrap();
    if basic.split_once(':').map(|(_, code)| code) != Some(hq.claim.secret()) {
        return problem(401, "bad_claim", None);
    }
    issue(&hq, &body)
}

async fn renewal(State(hq): State<Arc<Inner>>, body: axum::body::Bytes) -> Response {
    hq.log.lock().unwrap().push("M5");
    issue(&hq, &body)
}

fn issue(hq: &Inner, body: &[u8]) -> Response {
    let csr = STANDARD.decode(body).unwrap();
    let csr = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
    let mut params = CertificateParams::default();
    let faults = hq.faults.lock().unwrap();
    let device = if faults.other_device { "other" } else { DEVICE };
    if faults.short {
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    }
    let uri = format!("urn:uuid:{device}");
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
    let issuer = Issuer::from_ca_cert_pem(&hq.issuing.pem, &hq.issuing.key).unwrap();
    let cert = params.signed_by(&csr.public_key, &issuer).unwrap();
    certs_only(&[hq.issuing.der.clone(), cert.der().to_vec()])
}

async fn status(State(hq): State<Arc<Inner>>) -> StatusCode {
    hq.log.lock().unwrap().push("M4");
    StatusCode::NO_CONTENT
}
