// SPDX-License-Identifier: Apache-2.0
//! Errors as the caller sees them: RFC 9457 problem documents with a stable code.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use provisioning_protocol::problem::{PROBLEM_JSON, Problem};

/// An error on its way out. What only the log may know goes into `cause`.
#[derive(Debug)]
pub struct Failure {
    problem: Box<Problem>,
    retry_after_s: Option<u32>,
    challenge: Option<&'static str>,
}

/// Handlers' results.
pub type Answer<T> = Result<T, Failure>;

impl Failure {
    /// A problem with this status, code, title and detail.
    pub fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        let problem = Box::new(Problem::new(status.as_u16(), code, title, detail));
        Self { problem, retry_after_s: None, challenge: None }
    }

    /// 400 for what could not be read at all.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "Request not understood", detail)
    }

    /// 422 for what was read and makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Value not accepted", detail)
    }

    /// 403 with a code of its own.
    pub fn forbidden(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, "Not allowed", detail)
    }

    /// 409 with a code of its own.
    pub fn conflict(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, "Conflicts with what HQ has", detail)
    }

    /// 404 for a thing that does not exist.
    pub fn not_found(what: &str, name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        let detail = format!("there is no {what} \"{name}\"");
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// 413 for a body above its limit.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("at most {limit} bytes are read here");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Body too large", detail)
    }

    /// 429 with Retry-After.
    pub fn too_many(detail: impl Into<String>, retry_after_s: u32) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "too_many", "Too many requests", detail).retry_after(retry_after_s)
    }

    /// 500: the cause goes to the log, the caller gets no inner detail.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(cause = %chain(cause), "request failed inside HQ");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "internal", "HQ failed", "the cause is in HQ's log")
    }

    /// Adds Retry-After.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Adds a WWW-Authenticate challenge.
    #[must_use]
    pub fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.problem.code
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::internal(&error)
    }
}

/// What HQ itself stored could not be read back.
impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<crate::pki::PkiError> for Failure {
    fn from(error: crate::pki::PkiError) -> Self {
        Self::internal(&error)
    }
}

/// An error and all its sources in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
