// SPDX-License-Identifier: Apache-2.0
//! Enrolling a box at HQ: one request with the claim code, over TLS to the CA whose hash the
//! operator brought along with it. No private key leaves the box.

use crate::identity::Identity;
use crate::keys::Keys;
use crate::pin;
use anyhow::{Context as _, bail};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::local_witness::{BOX_ENROL_PATH, BoxAdmission};
use provisioning_protocol::problem::Problem;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const LIMIT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Enrols the box of this folder; may be repeated with the same code if the answer was lost.
///
/// # Errors
/// In words for the person at the box.
pub async fn enrol(
    folder: &Path,
    hq: &Uri,
    ca_sha256: &str,
    code: &str,
) -> anyhow::Result<BoxAdmission> {
    let code = ClaimCode::parse(code)?;
    let config = pin::client_config(ca_sha256)?;
    let keys = Keys::load_or_make(folder)?;
    let request = keys.request(&code.grouped())?;
    let body = serde_json::to_vec(&request).expect("plain data becomes JSON");
    let answer = timeout(LIMIT, post(hq, config, body)).await;
    let answer = answer.map_err(|_| anyhow::anyhow!("HQ did not answer within 30 s"))??;
    let admission: BoxAdmission =
        serde_json::from_slice(&answer).context("HQ answered with what is no admission")?;
    Identity::keep(folder, &admission)?;
    Ok(admission)
}

async fn post(hq: &Uri, config: ClientConfig, body: Vec<u8>) -> anyhow::Result<Bytes> {
    if hq.scheme_str() != Some("https") {
        bail!("HQ's address must begin with https://");
    }
    let host = hq.host().context("HQ's address names no host")?;
    let (bare, port) = (host.trim_matches(['[', ']']), hq.port_u16().unwrap_or(443));
    let name = ServerName::try_from(bare.to_owned()).context("HQ's address names no host")?;
    let stream = TcpStream::connect((bare, port))
        .await
        .with_context(|| format!("cannot reach HQ at {bare}, port {port}"))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context(
        "HQ's certificate is refused; is it HQ that answers, and is this machine's clock right?",
    )?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP")?;
    let driver = tokio::spawn(connection);
    let request = Request::post(BOX_ENROL_PATH)
        .header(header::HOST, hq.authority().map_or(host, |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .context("HQ's address is unusual")?;
    let answer = sender.send_request(request).await.context("HQ broke off")?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    driver.abort();
    let body = body.map_err(|error| anyhow::anyhow!("HQ's answer: {error}"))?.to_bytes();
    if status != StatusCode::OK {
        let told = serde_json::from_slice::<Problem>(&body).map(|problem| problem.detail);
        bail!("HQ refused: {}", told.unwrap_or_else(|_| status.to_string()));
    }
    Ok(body)
}
