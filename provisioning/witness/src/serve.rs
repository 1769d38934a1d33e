// SPDX-License-Identifier: Apache-2.0
//! The two routes, over mutual TLS. Everything has a bound: connections in all and from one
//! address, the time of a handshake, a header, a request, and the bytes of a body.

use crate::identity::Identity;
use crate::store::{Store, StoreError};
use crate::{sign, tls};
use anyhow::Context as _;
use aws_lc_rs::signature::EcdsaKeyPair;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use provisioning_protocol::desired::WITNESS_PATH;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
use provisioning_protocol::witness_reply::{Asked, NONCE_HEADER, SIGNATURE_HEADER, is_nonce};
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const BODY_BYTES_MAX: usize = 4096;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const REQUEST_MAX: Duration = Duration::from_secs(3);
/// Longer than the pause between two reads of a server.
const IDLE_MAX: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: usize = 64;
const FROM_ONE_MAX: usize = 8;

type Answer = Response<Full<Bytes>>;
type Sources = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// What every connection shares.
struct Shared {
    site: SiteName,
    signing: EcdsaKeyPair,
    store: Mutex<Store>,
    acceptor: TlsAcceptor,
    broken: mpsc::Sender<StoreError>,
}

/// Serves until the record can no longer be kept.
///
/// # Errors
/// If a key or a certificate is of no use, or a write failed.
pub async fn serve(listener: TcpListener, identity: &Identity, store: Store) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(identity)?));
    let (broken, mut failed) = mpsc::channel(1);
    let (site, signing) = (identity.admission.site.clone(), identity.keys.signing()?);
    let shared = Arc::new(Shared { site, signing, store: Mutex::new(store), acceptor, broken });
    let sources = Sources::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            error = failed.recv() => return error.map_or(Ok(()), Err).context("the record"),
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let source = address.ip().to_canonical();
        let Some(place) = Seat::take(&sources, source) else {
            tracing::warn!(%source, "too many connections");
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            connection(stream, source, &shared).await;
            drop(place);
        });
    }
}

/// One connection's place among the bounded ones.
struct Seat(Sources, IpAddr);

impl Seat {
    fn take(sources: &Sources, from: IpAddr) -> Option<Self> {
        let mut all = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let own = all.get(&from).copied().unwrap_or(0);
        if total >= CONNECTIONS_MAX || own >= FROM_ONE_MAX {
            return None;
        }
        all.insert(from, own + 1);
        Some(Self(sources.clone(), from))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.1);
            }
        }
    }
}

async fn connection(stream: TcpStream, source: IpAddr, shared: &Arc<Shared>) {
    // A small answer must not wait for more.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_MAX, shared.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%source, %error, "TLS handshake failed"),
        Err(_) => return tracing::info!(%source, "TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|certs| certs.first());
    let slot = certificate.and_then(|der| tls::slot_of(&shared.site, der));
    if slot.is_none() {
        tracing::warn!(%source, "a certificate that is no server's of this site");
    }
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(handle(&shared, slot, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%source, %error, "connection ended");
    }
}

async fn handle(
    shared: &Arc<Shared>,
    slot: Option<NodeSlot>,
    request: Request<Incoming>,
) -> Answer {
    let Some(slot) = slot else {
        return problem(StatusCode::FORBIDDEN, "other_site", "not a server of this site");
    };
    if request.uri().path() != WITNESS_PATH {
        return problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here");
    }
    let nonce = request.headers().get(NONCE_HEADER).and_then(|value| value.to_str().ok());
    let Some(nonce) = nonce.filter(|text| is_nonce(text)).map(str::to_owned) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "64 hex digits of nonce are missing",
        );
    };
    let sign = |body: &[u8], reply| {
        let asked = Asked { nonce: &nonce, site: &shared.site, slot, body };
        signed(&shared.signing, &asked, reply)
    };
    match *request.method() {
        Method::GET => {
            let store = shared.store.lock().unwrap_or_else(PoisonError::into_inner);
            sign(b"", json(store.record()))
        }
        Method::POST => match timeout(REQUEST_MAX, swap(shared, slot, request)).await {
            Ok(Ok((body, reply))) => sign(&body, reply),
            Ok(Err(refusal)) => refusal,
            Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long"),
        },
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "GET or POST"),
    }
}

fn signed(key: &EcdsaKeyPair, asked: &Asked<'_>, reply: Vec<u8>) -> Answer {
    let signature = sign::reply(key, asked, &reply).and_then(|text| text.parse().ok());
    let Some(signature) = signature else {
        return problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "signing failed");
    };
    let mut answer = answer(StatusCode::OK, "application/json", reply);
    answer.headers_mut().insert(SIGNATURE_HEADER, signature);
    answer
}

/// The request's body and the reply to it, or a refusal.
async fn swap(
    shared: &Arc<Shared>,
    slot: NodeSlot,
    request: Request<Incoming>,
) -> Result<(Bytes, Vec<u8>), Answer> {
    let limited = Limited::new(request.into_body(), BODY_BYTES_MAX);
    let Ok(body) = limited.collect().await else {
        let (status, code) = (StatusCode::PAYLOAD_TOO_LARGE, "too_large");
        return Err(problem(status, code, "the body is too long or broke off"));
    };
    let body = body.to_bytes();
    let Ok(swap) = serde_json::from_slice::<WitnessSwap>(&body) else {
        let (status, code) = (StatusCode::BAD_REQUEST, "bad_request");
        return Err(problem(status, code, "the body is no witness swap"));
    };
    if swap.by != slot {
        let detail = format!("this server is {slot}, not {}", swap.by);
        return Err(problem(StatusCode::FORBIDDEN, "other_slot", &detail));
    }
    let (at, asked) = (shared.clone(), swap.clone());
    // Waits for the disk.
    let done = tokio::task::spawn_blocking(move || {
        at.store.lock().unwrap_or_else(PoisonError::into_inner).swap(&asked)
    });
    match done.await {
        Ok(Ok(answer)) => {
            note(slot, &swap, &answer);
            Ok((body, json(&answer)))
        }
        Ok(Err(error)) => {
            // Nothing is answered on what the disk may not hold; a new start reads what it does.
            let _ = shared.broken.try_send(error);
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(problem(status, "disk", "the record cannot be kept"))
        }
        Err(_) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(problem(status, "internal", "the swap was cut off"))
        }
    }
}

fn note(slot: NodeSlot, swap: &WitnessSwap, answer: &WitnessAnswer) {
    let (granted, reason) = (answer.granted, answer.reason.as_str());
    tracing::info!(%slot, granted, epoch = swap.epoch.0, winner = ?swap.winner, reason, "swap");
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("Refused");
    let body = serde_json::to_vec(&Problem::new(status.as_u16(), code, title, detail));
    answer(status, PROBLEM_JSON, body.expect("plain data becomes JSON"))
}

fn answer(status: StatusCode, media_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let value = header::HeaderValue::from_static(media_type);
    answer.headers_mut().insert(header::CONTENT_TYPE, value);
    answer
}
