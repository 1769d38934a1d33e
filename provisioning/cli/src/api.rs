// SPDX-License-Identifier: Apache-2.0
//! HQ's operator API over TLS that trusts HQ's own CA and nothing else.

use crate::args::Connection;
use crate::error::{Failure, Kind, Outcome, chain};
use provisioning_protocol::problem::Problem;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Longest wait for an answer; publishing a big template takes HQ a while to check.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A connection to HQ.
#[derive(Clone)]
pub struct Hq {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Hq {
    /// Reads CA and token; nothing is sent yet.
    pub fn new(to: &Connection) -> Outcome<Self> {
        let token = read_text(&to.token, "token file")
            .map_err(|e| e.hint("HQ keeps it in operator.token in its folder"))?;
        let ca = read_text(&to.ca, "CA file")
            .map_err(|e| e.hint("HQ keeps it in pki/root-ca.pem in its folder"))?;
        let mut anchors = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            let fits = cert.ok().is_some_and(|cert| anchors.add(cert).is_ok());
            if !fits {
                return Err(Failure::input(format!("{} holds no certificate", to.ca.display())));
            }
        }
        let mut tls =
            rustls::ClientConfig::builder().with_root_certificates(anchors).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|e| Failure::caused(Kind::Internal, "the HTTP client cannot start", &e))?;
        let base = to.hq.trim_end_matches('/').to_owned();
        Ok(Self { base, token: token.trim().to_owned(), http })
    }

    /// Reads a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Reads bytes; `None` for 404.
    pub async fn get_bytes(&self, path: &str) -> Outcome<Option<Vec<u8>>> {
        let answer = self.send(self.request(Method::GET, path).timeout(ANSWER_MAX)).await;
        match answer {
            Err(failure) if failure.code.as_deref() == Some("not_found") => Ok(None),
            Err(failure) => Err(failure),
            Ok(answer) => {
                let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
                Ok(Some(bytes.to_vec()))
            }
        }
    }

    /// Writes JSON and reads the JSON answer.
    pub async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Outcome<T> {
        self.json(self.request(method, path).json(body)).await
    }

    /// Writes nothing, or bytes, and drops the answer.
    pub async fn send_bytes(&self, method: Method, path: &str, body: Vec<u8>) -> Outcome<()> {
        self.send(self.request(method, path).timeout(ANSWER_MAX).body(body)).await.map(|_| ())
    }

    /// Writes JSON and drops the answer.
    pub async fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Outcome<()> {
        self.send(self.request(method, path).timeout(ANSWER_MAX).json(body)).await.map(|_| ())
    }

    /// Writes bytes and reads the JSON answer.
    pub async fn put_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Outcome<T> {
        self.json(self.request(Method::PUT, path).body(body)).await
    }

    /// A stream of server-sent events.
    pub async fn stream(&self, path: &str) -> Outcome<Response> {
        self.send(self.request(Method::GET, path)).await
    }

    /// A failure to reach HQ, with what it most likely means.
    pub fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let text = chain(error);
        let failure =
            Failure::new(Kind::Unreachable, format!("{} cannot be used: {text}", self.base));
        if text.contains("UnknownIssuer") {
            return failure.hint("this HQ's certificate is not from the CA in --ca: another HQ?");
        }
        if text.contains("NotValidForName") || text.contains("not valid for name") {
            return failure.hint("use a name or address given to forecourt-hq init --address");
        }
        failure.hint("is HQ running, and is --hq its address?")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Outcome<T> {
        let answer = self.send(request.timeout(ANSWER_MAX)).await?;
        let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::caused(Kind::Internal, "HQ's answer is not understood", &e))
    }

    async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        let answer = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.unwrap_or_default();
        Err(match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Failure::refused(problem),
            Err(_) => not_hq(&self.base, status),
        })
    }
}

fn not_hq(base: &str, status: StatusCode) -> Failure {
    Failure::new(Kind::Unreachable, format!("{base} answered HTTP {status} without a reason"))
        .hint("is something else listening there?")
}

/// Reads a small text file.
pub fn read_text(path: &std::path::Path, what: &str) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Failure::caused(Kind::Input, &format!("{what} {} cannot be read", path.display()), &e)
    })
}

/// Reads a file.
pub fn read_file(path: &std::path::Path) -> Outcome<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Failure::caused(Kind::Input, &format!("{} cannot be read", path.display()), &e)
    })
}

/// Writes a file, and its folder.
pub fn write_file(path: &std::path::Path, bytes: &[u8]) -> Outcome<()> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, bytes)
    };
    write().map_err(|e| {
        Failure::caused(Kind::Input, &format!("{} cannot be written", path.display()), &e)
    })
}
