// SPDX-License-Identifier: Apache-2.0
//! The dashboard: one server-rendered page for people, live by server-sent events.
//!
//! Everything from outside is escaped by the templates; scripts come from this binary alone, and
//! the page's security policy lets nothing else run.

mod model;
mod pages;
mod session;

use crate::app::App;
use crate::problem::Failure;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

/// Nothing but our own files; no frames, no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page's addresses.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(pages::home))
        .route("/fragment", get(pages::fragment))
        .route("/live", get(pages::live))
        .route("/login", get(pages::login).post(pages::enter))
        .route("/logout", post(pages::leave))
        .layer(from_fn(guard))
        .route("/assets/{file}", get(asset))
}

async fn guard(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn asset(axum::extract::Path(file): axum::extract::Path<String>) -> Response {
    let (kind, text) = match file.as_str() {
        "page.css" => ("text/css; charset=utf-8", include_str!("../../assets/page.css")),
        "page.js" => ("text/javascript; charset=utf-8", include_str!("../../assets/page.js")),
        "mark.svg" => ("image/svg+xml", include_str!("../../assets/mark.svg")),
        other => return Failure::not_found("asset", other).into_response(),
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}
