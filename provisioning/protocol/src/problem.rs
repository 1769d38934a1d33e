// SPDX-License-Identifier: Apache-2.0
//! Errors on the wire: RFC 9457 `application/problem+json`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A problem document (RFC 9457 section 3.1) with a stable `code`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`-style type URI: `urn:forecourt:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short and the same for each occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    #[serde(default)]
    pub detail: String,
    /// Stable machine-readable code, such as `bad_claim`.
    pub code: String,
}

impl Problem {
    /// Makes a problem document.
    #[must_use]
    pub fn new(status: u16, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:forecourt:problem:{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, HTTP {})", self.title, self.code, self.status)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}
