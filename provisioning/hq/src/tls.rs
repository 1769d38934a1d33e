// SPDX-License-Identifier: Apache-2.0
//! The TLS side: handshakes in tasks of their own, client certificates wanted but optional.
//!
//! A denial is answered by the application, not by dropping TLS, so that a server can show the
//! reason on its console. A certificate that is shown must be one of ours.

use crate::app::App;
use crate::http::{Identity, Peer};
use crate::problem::chain;
use crate::tls_verify::{Patient, not_after_s};
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// A handshake that takes longer is cut off.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Request headers that take longer are cut off.
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// Connections at once: 7,000 servers with one each, and room.
const CONNECTIONS_MAX: usize = 16_384;
/// Open streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// How long connections may finish what they do when HQ stops.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Builds the TLS configuration from PEM texts.
///
/// # Errors
/// Whatever rustls says of the certificates and keys.
pub fn config(
    chain_pem: &str,
    key_pem: &str,
    client_ca_pem: &str,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut anchors = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(client_ca_pem.as_bytes()) {
        anchors.add(cert?)?;
    }
    let clients =
        WebPkiClientVerifier::builder(Arc::new(anchors)).allow_unauthenticated().build()?;
    let certs = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(Arc::new(Patient(clients)))
        .with_single_cert(certs, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How long the first certificate of a chain is still good; 0 if it has ended.
#[must_use]
pub fn seconds_left(chain_pem: &str, now_s: u64) -> Option<u64> {
    let der = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    Some(not_after_s(&der)?.saturating_sub(now_s))
}

/// Accepts until `stop` ends, then lets connections finish for a moment.
pub async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    app: App,
    routes: Router,
    stop: impl Future<Output = ()>,
) {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(cause = %chain(&error), "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%address, "all connection places are taken");
            continue;
        };
        let (acceptor, routes, watcher) = (acceptor.clone(), routes.clone(), graceful.watcher());
        let now_s = app.clock.now_s();
        tokio::spawn(async move {
            connection(stream, address, &acceptor, routes, watcher, now_s).await;
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(DRAIN_MAX) => {}
    }
    app.db.close().await;
    app.witness.close().await;
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    routes: Router,
    watcher: hyper_util::server::graceful::Watcher,
    now_s: u64,
) {
    // Latency of small answers matters more than packet count.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%address, cause = %chain(&error), "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "TLS handshake took too long");
            return;
        }
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|certs| certs.first());
    let identity = certificate.and_then(|cert| identity(cert, now_s)).map(Arc::new);
    let peer = Peer { source: address.ip().to_canonical(), identity };
    let service = routes.map_request(move |mut request: axum::http::Request<_>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let builder = builder();
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%address, cause = %error, "connection ended");
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// What a certificate that rustls verified says of its holder.
fn identity(der: &CertificateDer<'_>, now_s: u64) -> Option<Identity> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = cert.subject_alternative_name().ok()??;
    let device_id = names.value.general_names.iter().find_map(|name| match name {
        x509_parser::extensions::GeneralName::URI(uri) => uri.strip_prefix("urn:uuid:"),
        _ => None,
    })?;
    Some(Identity {
        device_id: device_id.to_owned(),
        key_hash: key_hash(cert.public_key().raw),
        ended: not_after_s(der).is_none_or(|end| end < now_s),
    })
}

/// How keys are named in the database: SHA-256 of the SPKI, hex.
#[must_use]
pub fn key_hash(spki: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(spki))
}
