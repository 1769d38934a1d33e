// SPDX-License-Identifier: Apache-2.0
//! Enrolment: HQ is registrar and MASA (RFC 8995) and EST server (RFC 7030) in one.
//!
//! ```text
//!  box                                     HQ
//!   │ M1 voucher request, signed by key     │  is the claim's public id known, live, its slot free?
//!   │──────────────────────────────────────►│  remembers the key as an applicant
//!   │◄────────── voucher: nonce, identity ──│
//!   │ M2 CA certificates                    │
//!   │ M3 CSR of the same key + claim code   │  one transaction: code right? use it, take the slot
//!   │──────────────────────────────────────►│
//!   │◄─────────── client certificate, 90 d ─│
//!   │ M4 how it went (over mutual TLS)      │
//! ```

mod certificate;
mod renew;
mod status;
mod voucher;
mod witness_box;

use crate::app::App;
use crate::db::claims::{Claim, ClaimState};
use crate::problem::{Answer, Failure};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use provisioning_protocol::enrol::{
    CACERTS_PATH, ENROLL_STATUS_PATH, REQUEST_VOUCHER_PATH, SIMPLE_ENROLL_PATH,
    SIMPLE_REENROLL_PATH,
};
use provisioning_protocol::local_witness::BOX_ENROL_PATH;

/// All enrolment addresses.
pub fn routes() -> Router<App> {
    Router::new()
        .route(REQUEST_VOUCHER_PATH, post(voucher::request))
        .route(CACERTS_PATH, get(certificate::authorities))
        .route(SIMPLE_ENROLL_PATH, post(certificate::first))
        .route(ENROLL_STATUS_PATH, post(status::note))
        .route(SIMPLE_REENROLL_PATH, post(renew::renew))
        .route(BOX_ENROL_PATH, post(witness_box::enrol))
}

/// Whether this key may (still) use the claim.
fn usable(claim: &Claim, key_hash: &str, now_ms: i64) -> Answer<()> {
    let refuse = |status, code, detail: &str| {
        Err(Failure::new(status, code, "Claim code not accepted", detail))
    };
    match claim.state {
        // A lost answer may be asked for again by the very same key.
        ClaimState::Used if claim.used_by.as_deref() == Some(key_hash) => Ok(()),
        ClaimState::Used => refuse(
            StatusCode::CONFLICT,
            "used_claim",
            "this claim code was used by another server; ask HQ for a new one",
        ),
        ClaimState::Void => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "void_claim",
            "this claim code was replaced or tried too often; ask HQ for a new one",
        ),
        ClaimState::Live if claim.expires_ms <= now_ms => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "expired_claim",
            "this claim code is older than 14 days; ask HQ for a new one",
        ),
        ClaimState::Live => Ok(()),
    }
}

fn slot_taken() -> Failure {
    let detail = "another server holds this place; an operator must retire it first";
    Failure::conflict("slot_taken", detail)
}
