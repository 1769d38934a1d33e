// SPDX-License-Identifier: Apache-2.0
//! A BMC that answers as the test says, over TLS with a certificate of its own.

use provisioning_protocol::bmc::Bmc;
use provisioning_protocol::desired::Secret;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, for ever.
    Hang,
    /// A header, and then a byte now and then.
    Trickle,
    /// A gigabyte.
    Flood,
    /// The connection ends.
    Close,
}

impl Reply {
    pub fn json(status: u16, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Self::Bytes(text.into_bytes())
    }

    pub fn redirect(to: &str) -> Self {
        let text = format!("HTTP/1.1 302 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        Self::Bytes(text.into_bytes())
    }
}

/// A system's description.
pub fn system(power: &str) -> String {
    format!(r#"{{"@odata.id":"/redfish/v1/Systems/1","Id":"1","PowerState":"{power}"}}"#)
}

/// The list of systems, and leave to do anything.
pub fn plain(method: &str, path: &str) -> Reply {
    match (method, path) {
        ("GET", "/redfish/v1/Systems") => {
            Reply::json(200, r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}"#)
        }
        ("POST", _) => Reply::json(202, "{}"),
        _ => Reply::json(404, "{}"),
    }
}

/// A certificate of its own: PEM of it and of its key, and its fingerprint.
pub struct Own {
    pub cert: CertificateDer<'static>,
    pub cert_pem: String,
    pub key_pem: String,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Own {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // For another name than it is reached by, as most BMCs' are.
        let made = rcgen::generate_simple_self_signed(vec!["bmc.invalid".into()]).expect("cert");
        Self {
            cert: made.cert.der().clone(),
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            key: made.signing_key.serialize_der().into(),
        }
    }

    pub fn fingerprint(&self) -> String {
        Sha256::digest(&self.cert).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02X}:").expect("text");
            text
        })
    }

    pub fn bmc(&self, at: SocketAddr) -> Bmc {
        Bmc {
            url: format!("https://{at}"),
            user: "fence".into(),
            password: Secret("switch:it".into()),
            fingerprint: self.fingerprint(),
            system: None,
        }
    }
}

/// Asked for a request's number, method and path.
type Answer = dyn Fn(usize, &str, &str) -> Reply + Send + 'static;

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<String>>,
    bodies: Mutex<Vec<String>>,
    sent: AtomicUsize,
}

pub struct Fake {
    own: Own,
    at: SocketAddr,
    seen: Arc<Seen>,
    _task: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub async fn start(answer: impl Fn(usize, &str, &str) -> Reply + Send + 'static) -> Self {
        let own = Own::new();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.clone()], PrivateKeyDer::Pkcs8(own.key.clone_key()))
            .expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let at = listener.local_addr().expect("address");
        let seen = Arc::new(Seen::default());
        let answer: Arc<Mutex<Box<Answer>>> = Arc::new(Mutex::new(Box::new(answer)));
        let all = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, acceptor.clone(), all.clone(), answer.clone()));
            }
        });
        Self { own, at, seen, _task: task }
    }

    pub fn bmc(&self) -> Bmc {
        self.own.bmc(self.at)
    }

    pub fn asked(&self) -> Vec<String> {
        self.seen.asked.lock().expect("lock").clone()
    }

    pub fn bodies(&self) -> Vec<String> {
        self.seen.bodies.lock().expect("lock").clone()
    }

    pub fn sent(&self) -> usize {
        self.seen.sent.load(Ordering::SeqCst)
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    seen: Arc<Seen>,
    answer: Arc<Mutex<Box<Answer>>>,
) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let mut stream = BufReader::new(stream);
    loop {
        let Some((line, body)) = request(&mut stream).await else { return };
        let mut parts = line.split(' ').map(str::to_owned);
        let (method, path) = (parts.next().expect("method"), parts.next().expect("path"));
        let nth = {
            let mut asked = seen.asked.lock().expect("lock");
            asked.push(format!("{method} {path}"));
            asked.len() - 1
        };
        if !body.is_empty() {
            seen.bodies.lock().expect("lock").push(body);
        }
        let reply = answer.lock().expect("lock")(nth, &method, &path);
        let done = match reply {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.is_ok(),
            Reply::Close => false,
            Reply::Hang => std::future::pending().await,
            Reply::Trickle => {
                let _ = stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 9999\r\n\r\n").await;
                let _ = stream.flush().await;
                while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                false
            }
            Reply::Flood => {
                let head = b"HTTP/1.1 200 x\r\ncontent-length: 1073741824\r\n\r\n";
                let _ = stream.write_all(head).await;
                while stream.write_all(&[b' '; 16_384]).await.is_ok() {
                    seen.sent.fetch_add(16_384, Ordering::SeqCst);
                }
                false
            }
        };
        if !done || stream.flush().await.is_err() {
            return;
        }
    }
}

/// A request's first line and body.
async fn request(
    stream: &mut BufReader<tokio_rustls::server::TlsStream<TcpStream>>,
) -> Option<(String, String)> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first.trim().to_owned(), String::from_utf8(body).ok()?))
}
