// SPDX-License-Identifier: Apache-2.0
//! The two routes, over mutual TLS. Everything has a bound: connections in all and from one
//! address, the time of a handshake, a header, a request, and the bytes of a body.

use crate::store::{Store, StoreError};
use crate::tls;
use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use provisioning_protocol::desired::WITNESS_PATH;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::local_witness::WitnessBundle;
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
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
    bundle: WitnessBundle,
    store: Mutex<Store>,
    acceptor: TlsAcceptor,
    broken: mpsc::Sender<StoreError>,
}

/// Serves until the record can no longer be kept.
///
/// # Errors
/// If the bundle is of no use, or a write failed.
pub async fn serve(
    listener: TcpListener,
    bundle: WitnessBundle,
    store: Store,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(&bundle)?));
    let (broken, mut failed) = mpsc::channel(1);
    let shared = Arc::new(Shared { bundle, store: Mutex::new(store), acceptor, broken });
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
    let slot = certificate.and_then(|der| tls::slot_of(&shared.bundle, der));
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
    match *request.method() {
        Method::GET => json(shared.store.lock().unwrap_or_else(PoisonError::into_inner).record()),
        Method::POST => match timeout(REQUEST_MAX, swap(shared, slot, request)).await {
            Ok(answer) => answer,
            Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long"),
        },
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, "method", "GET or POST"),
    }
}

async fn swap(shared: &Arc<Shared>, slot: NodeSlot, request: Request<Incoming>) -> Answer {
    let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is too long");
    };
    let Ok(swap) = serde_json::from_slice::<WitnessSwap>(&body.to_bytes()) else {
        return problem(StatusCode::BAD_REQUEST, "bad_request", "the body is no witness swap");
    };
    if swap.by != slot {
        let detail = format!("this server is {slot}, not {}", swap.by);
        return problem(StatusCode::FORBIDDEN, "other_slot", &detail);
    }
    let (at, asked) = (shared.clone(), swap.clone());
    // Waits for the disk.
    let done = tokio::task::spawn_blocking(move || {
        at.store.lock().unwrap_or_else(PoisonError::into_inner).swap(&asked)
    });
    match done.await {
        Ok(Ok(answer)) => {
            note(slot, &swap, &answer);
            json(&answer)
        }
        Ok(Err(error)) => {
            // Nothing is answered on what the disk may not hold; a new start reads what it does.
            let _ = shared.broken.try_send(error);
            problem(StatusCode::INTERNAL_SERVER_ERROR, "disk", "the record cannot be kept")
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the swap was cut off"),
    }
}

fn note(slot: NodeSlot, swap: &WitnessSwap, answer: &WitnessAnswer) {
    let (granted, reason) = (answer.granted, answer.reason.as_str());
    tracing::info!(%slot, granted, epoch = swap.epoch.0, winner = ?swap.winner, reason, "swap");
}

fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("plain data becomes JSON");
    answer(StatusCode::OK, "application/json", body)
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
