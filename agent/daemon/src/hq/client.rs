// SPDX-License-Identifier: Apache-2.0
//! A small HTTPS client for HQ: several addresses tried in turn, bounded bodies, errors in words.

use crate::hq::tls::{self, TlsError, TlsMemory};
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};
use provisioning_protocol::witness_reply::SIGNATURE_HEADER;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;

/// Longest answer read from HQ outside the catalogue.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why HQ did not answer as hoped.
#[derive(Debug, Error)]
pub enum HqError {
    /// TLS cannot be set up at all.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The client could not be built.
    #[error("Cannot set up the connection to HQ")]
    Setup(#[source] reqwest::Error),
    /// Someone else answered: the certificate is not from the owner's CA.
    #[error(
        "{url} answered with a certificate of another CA ({issuer}). Is something intercepting \
         TLS? Exempt HQ's address from inspection, or use a claim stick of this HQ"
    )]
    WrongCa {
        /// HQ's address.
        url: String,
        /// Who issued what was presented.
        issuer: String,
    },
    /// No connection, or it broke.
    #[error("HQ at {url} cannot be reached: {reason}")]
    Unreachable {
        /// HQ's address.
        url: String,
        /// In words.
        reason: String,
    },
    /// HQ said no.
    #[error("HQ refused: {0}")]
    Refused(Problem),
    /// HQ answered something else.
    #[error("HQ at {url} answered with what is no valid {what}")]
    Answer {
        /// HQ's address.
        url: String,
        /// What was expected.
        what: &'static str,
    },
    /// HQ wants us to come back later.
    #[error("HQ asks to wait {wait_s} s: {reason}")]
    Later {
        /// Seconds.
        wait_s: u64,
        /// In words.
        reason: String,
    },
}

impl HqError {
    /// Whether this server itself has no network yet (ENETUNREACH): nobody was asked, so there
    /// is no reason to wait long.
    #[must_use]
    pub fn no_network(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.contains("os error 101"))
    }
}

/// Client certificate with its issuers, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `ETag` of the answer.
    pub etag: Option<String>,
    /// A witness's signature.
    pub signature: Option<String>,
    /// The body.
    pub body: bytes::Bytes,
}

/// A request to HQ.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// Headers.
    pub headers: Vec<(&'a str, String)>,
    /// Body.
    pub body: Option<Vec<u8>>,
    /// Time limit of the whole exchange.
    pub limit: Duration,
    /// Longest answer that is read, in bytes.
    pub bytes_max: usize,
}

impl<'a> Call<'a> {
    /// A `GET` with the usual limit of 30 s.
    #[must_use]
    pub fn get(path: &'a str) -> Self {
        let (headers, limit) = (Vec::new(), Duration::from_secs(30));
        let bytes_max = ANSWER_BYTES_MAX;
        Self { method: Method::GET, path, headers, body: None, limit, bytes_max }
    }

    /// A `POST` of JSON.
    #[must_use]
    pub fn post(path: &'a str, media_type: &str, body: Vec<u8>) -> Self {
        Self { method: Method::POST, body: Some(body), ..Self::get(path) }
            .header("content-type", media_type)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the time limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the longest answer.
    #[must_use]
    pub fn at_most(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }
}

/// The client.
#[derive(Debug, Clone)]
pub struct HqClient {
    http: Client,
    urls: Arc<Vec<String>>,
    current: Arc<AtomicUsize>,
    memory: Arc<TlsMemory>,
}

impl HqClient {
    /// Builds a client for HQ's addresses, trusting `root_pem` only.
    ///
    /// # Errors
    /// [`HqError`].
    pub fn new(
        urls: &[String],
        root_pem: &str,
        memory: Arc<TlsMemory>,
        identity: Option<Identity>,
    ) -> Result<Self, HqError> {
        Self::with_keep_alive(urls, root_pem, memory, identity, Duration::from_secs(5))
    }

    /// The same, noticing a dead connection within twice `keep_alive`.
    ///
    /// # Errors
    /// [`HqError`].
    pub fn with_keep_alive(
        urls: &[String],
        root_pem: &str,
        memory: Arc<TlsMemory>,
        identity: Option<Identity>,
        keep_alive: Duration,
    ) -> Result<Self, HqError> {
        Self::build(urls, root_pem, memory, identity, (keep_alive, None))
    }

    /// For a box on site: it must have `name` in its certificate, and is asked at `address`.
    ///
    /// # Errors
    /// [`HqError`].
    pub fn pinned(
        name: &str,
        address: SocketAddr,
        root_pem: &str,
        memory: Arc<TlsMemory>,
        identity: Identity,
    ) -> Result<Self, HqError> {
        let urls = [format!("https://{name}:{}", address.port())];
        let how = (Duration::from_secs(2), Some((name, address)));
        Self::build(&urls, root_pem, memory, Some(identity), how)
    }

    fn build(
        urls: &[String],
        root_pem: &str,
        memory: Arc<TlsMemory>,
        identity: Option<Identity>,
        (keep_alive, at): (Duration, Option<(&str, SocketAddr)>),
    ) -> Result<Self, HqError> {
        let config = tls::client_config(root_pem, memory.clone(), identity)?;
        let mut builder = Client::builder();
        if let Some((name, address)) = at {
            builder = builder.resolve(name, address);
        }
        let http = builder
            .tls_backend_preconfigured(config)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(keep_alive)
            .http2_keep_alive_timeout(keep_alive)
            .http2_keep_alive_while_idle(true)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_user_timeout(Duration::from_secs(15))
            .user_agent(concat!("forecourt-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(HqError::Setup)?;
        let urls = urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { http, urls: Arc::new(urls), current: Arc::default(), memory })
    }

    /// The address in use.
    #[must_use]
    pub fn url(&self) -> &str {
        let at = self.current.load(Ordering::Relaxed) % self.urls.len().max(1);
        self.urls.get(at).map_or("", String::as_str)
    }

    /// The HTTP client beneath, for streams of chunks.
    #[must_use]
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// Sends one request to the address in use. After a failure to connect, the next call tries
    /// the next address.
    ///
    /// # Errors
    /// [`HqError`]; an HTTP status of 400 and more is [`HqError::Refused`], 202, 429 and 503
    /// with `Retry-After` are [`HqError::Later`].
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, HqError> {
        let url = self.url().to_owned();
        let mut request =
            self.http.request(call.method, format!("{url}{}", call.path)).timeout(call.limit);
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        if let Some(body) = call.body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|err| self.lost(&url, &err))?;
        self.take(&url, response, call.bytes_max).await
    }

    async fn take(
        &self,
        url: &str,
        mut response: reqwest::Response,
        bytes_max: usize,
    ) -> Result<Answer, HqError> {
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let etag = header(reqwest::header::ETAG).map(str::to_owned);
        let signature = response.headers().get(SIGNATURE_HEADER);
        let signature = signature.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let retry_after = header(RETRY_AFTER).and_then(|v| v.parse::<u64>().ok());
        let is_problem = header(CONTENT_TYPE).is_some_and(|v| v.starts_with(PROBLEM_JSON));
        let status = response.status();
        let mut body = bytes::BytesMut::new();
        while let Some(part) = response.chunk().await.map_err(|err| self.lost(url, &err))? {
            if body.len() + part.len() > bytes_max {
                return Err(HqError::Answer { url: url.to_owned(), what: "answer (too long)" });
            }
            body.extend_from_slice(&part);
        }
        let body = body.freeze();
        if status == StatusCode::NOT_MODIFIED
            || (status.is_success() && status != StatusCode::ACCEPTED)
        {
            return Ok(Answer { status, etag, signature, body });
        }
        let problem = is_problem.then(|| serde_json::from_slice::<Problem>(&body).ok()).flatten();
        Err(refusal(status, retry_after, problem))
    }

    fn lost(&self, url: &str, err: &reqwest::Error) -> HqError {
        self.current.fetch_add(1, Ordering::Relaxed);
        if let Some(issuer) = self.memory.take_refused_issuer() {
            return HqError::WrongCa { url: url.to_owned(), issuer };
        }
        HqError::Unreachable { url: url.to_owned(), reason: innermost(err) }
    }
}

fn refusal(status: StatusCode, retry_after: Option<u64>, problem: Option<Problem>) -> HqError {
    let problem = problem.unwrap_or_else(|| {
        let title = status.canonical_reason().unwrap_or("unexpected answer");
        Problem::new(status.as_u16(), "http", title, "")
    });
    let waits = matches!(
        status,
        StatusCode::ACCEPTED | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    if waits {
        let reason = if problem.detail.is_empty() { problem.title } else { problem.detail };
        return HqError::Later { wait_s: retry_after.unwrap_or(30).clamp(1, 3600), reason };
    }
    HqError::Refused(problem)
}

/// The last cause of an error: what a person wants to read.
pub fn innermost(err: &dyn std::error::Error) -> String {
    let mut at = err;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

/// An error and its causes in one line.
#[must_use]
pub fn error_chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut at = err.source();
    while let Some(next) = at {
        let part = next.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        at = next.source();
    }
    text
}
