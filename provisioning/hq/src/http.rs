// SPDX-License-Identifier: Apache-2.0
//! Border of the HTTP side: who speaks, how bodies are read, how long a request may take.

use crate::app::App;
use crate::db::events::clean;
use crate::problem::{Answer, Failure};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use provisioning_protocol::BODY_BYTES_MAX;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::ConstantTimeEq;

/// What the TLS layer knows of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it comes from.
    pub source: IpAddr,
    /// The verified client certificate's identity, if one was shown.
    pub identity: Option<Arc<Identity>>,
}

/// What a verified client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// From the SAN `urn:uuid:…`.
    pub device_id: String,
    /// SHA-256 of its key, hex.
    pub key_hash: String,
    /// Whether the certificate had ended when the connection began.
    pub ended: bool,
}

/// A server that HQ knows and lets speak.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Identity.
    pub device_id: String,
    /// Hash of its key.
    pub key_hash: String,
    /// Site.
    pub site: SiteName,
    /// Place.
    pub slot: NodeSlot,
}

impl FromRequestParts<App> for Agent {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let identity = shown(parts)?;
        if identity.ended {
            let detail = "the certificate has ended; renew it at /.well-known/est/simplereenroll";
            let status = StatusCode::UNAUTHORIZED;
            return Err(Failure::new(status, "ended_certificate", "Certificate ended", detail));
        }
        known(app, &identity).await
    }
}

/// A server whose certificate may have ended: good for its renewal and nothing else.
#[derive(Debug, Clone)]
pub struct Renewing(pub Agent);

impl FromRequestParts<App> for Renewing {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        known(app, &*shown(parts)?).await.map(Self)
    }
}

fn shown(parts: &Parts) -> Answer<Arc<Identity>> {
    peer(parts)?.identity.ok_or_else(|| {
        let detail = "this address needs the client certificate got at enrolment";
        Failure::new(StatusCode::UNAUTHORIZED, "no_certificate", "Who are you?", detail)
    })
}

async fn known(app: &App, identity: &Identity) -> Answer<Agent> {
    match crate::db::devices::by_key(app.db.reader(), &identity.key_hash).await? {
        Some(d) if d.device_id != identity.device_id => {
            Err(Failure::forbidden("unknown_device", "the certificate and its key differ"))
        }
        Some(d) if d.active => {
            Ok(Agent { device_id: d.device_id, key_hash: d.key_hash, site: d.site, slot: d.slot })
        }
        Some(_) => Err(Failure::forbidden("blocked", "this server was taken out of service")),
        None => Err(Failure::forbidden("unknown_device", "HQ does not know this server")),
    }
}

/// Proof that an operator asks.
#[derive(Debug, Clone, Copy)]
pub struct Operator;

impl FromRequestParts<App> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let source = peer(parts)?.source;
        check_token(app, source, bearer(&parts.headers)).map(|()| Self)
    }
}

/// A server or an operator: who may read the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Reader;

impl FromRequestParts<App> for Reader {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            return Operator::from_request_parts(parts, app).await.map(|_| Self);
        }
        Agent::from_request_parts(parts, app).await.map(|_| Self)
    }
}

impl FromRequestParts<App> for Peer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Answer<Self> {
        peer(parts)
    }
}

fn peer(parts: &Parts) -> Answer<Peer> {
    parts
        .extensions
        .get::<Peer>()
        .cloned()
        .ok_or_else(|| Failure::bad_request("the connection has no known source"))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Compares a token in constant time; wrong ones are counted per source.
///
/// # Errors
/// 401 for none or a wrong one, 429 after too many.
pub fn check_token(app: &App, source: IpAddr, token: Option<&str>) -> Answer<()> {
    let now = app.clock.now_ms();
    if let Some(wait_s) = app.limits.wrong_tokens.exhausted(source, now) {
        return Err(Failure::too_many("too many wrong tokens from your address", wait_s));
    }
    let right = token.is_some_and(|token| {
        let (token, ours) = (token.trim().as_bytes(), app.operator_token.as_bytes());
        bool::from(token.ct_eq(ours))
    });
    if right {
        return Ok(());
    }
    if token.is_some() {
        // The count is what matters; this request is refused in either case.
        let _ = app.limits.wrong_tokens.pass(source, now);
    }
    let (code, detail) = match token {
        None => ("no_token", "send the operator token as \"Authorization: Bearer …\""),
        Some(_) => ("bad_token", "the operator token is not this HQ's"),
    };
    Err(Failure::new(StatusCode::UNAUTHORIZED, code, "Who are you?", detail).challenge("Bearer"))
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 above the limit, 400 when it breaks off.
pub async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Answer<Bytes> {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if told.is_some_and(|told: u64| told > limit as u64) {
        return Err(Failure::too_large(limit));
    }
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let text = crate::problem::chain(&error);
        if text.contains("length limit") {
            Failure::too_large(limit)
        } else {
            Failure::bad_request(format!("the body broke off: {text}"))
        }
    })
}

/// Demands a media type; parameters are ignored.
///
/// # Errors
/// 415.
pub fn demand_type(headers: &HeaderMap, wanted: &[&str]) -> Answer<()> {
    let told = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let told = told.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if wanted.contains(&told.as_str()) {
        return Ok(());
    }
    let detail = format!("send Content-Type {}", wanted.join(" or "));
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Failure::new(status, "media_type", "Media type not taken here", detail))
}

/// A JSON body of at most [`BODY_BYTES_MAX`] bytes; errors name the field.
pub struct ReadJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for ReadJson<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &App) -> Answer<Self> {
        let (parts, body) = request.into_parts();
        demand_type(&parts.headers, &["application/json"])?;
        let bytes = read_body(&parts.headers, body, BODY_BYTES_MAX).await?;
        parse_json(&bytes).map(Self)
    }
}

/// Parses JSON from outside.
///
/// # Errors
/// 400 for no JSON at all, 422 for JSON of another shape; the detail names field, line and column.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." => String::new(),
            path => format!("{path}: "),
        };
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => {
                let detail = clean(&format!("{field}{error}"), 400);
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Failure::new(status, "bad_field", "Field not accepted", detail)
            }
            _ => Failure::bad_request(format!("the body is no JSON: {error}")),
        }
    })?;
    reader.end().map_err(|_| Failure::bad_request("the body goes on after its JSON value"))?;
    Ok(parsed)
}

/// Ends a request that takes too long with a problem document.
pub async fn within(limit: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request took longer than {} s", limit.as_secs());
            let status = StatusCode::REQUEST_TIMEOUT;
            Failure::new(status, "timeout", "Request took too long", detail).into_response()
        }
    }
}
