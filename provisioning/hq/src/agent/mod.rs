// SPDX-License-Identifier: Apache-2.0
//! What enrolled servers ask of HQ, over mutual TLS.

pub mod assemble;
mod desired;
mod report;
mod witness;

use crate::app::App;
use axum::Router;
use axum::routing::{get, post};
use provisioning_protocol::desired::{DESIRED_PATH, REPORT_PATH, WITNESS_PATH};

/// All addresses for agents but enrolment and the catalogue.
pub fn routes() -> Router<App> {
    Router::new()
        .route(DESIRED_PATH, get(desired::poll))
        .route(REPORT_PATH, post(report::take))
        .route(WITNESS_PATH, get(witness::show).post(witness::swap))
}
