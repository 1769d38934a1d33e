// SPDX-License-Identifier: Apache-2.0
//! The operator's API: blueprints, sites, claims, servers, templates, events.

mod blueprints;
mod bmcs;
mod claims;
mod events;
mod placement;
mod reads;
mod sites;
mod variables;
pub mod views;
mod witness_box;

use crate::app::App;
use axum::Router;
use axum::routing::{delete, get, post, put};

/// All operator addresses but the catalogue's.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/blueprints", get(blueprints::list))
        .route("/v1/blueprints/{name}", get(blueprints::show).put(blueprints::apply))
        .route("/v1/sites", get(sites::list).post(sites::create))
        .route("/v1/sites/{site}", get(sites::show))
        .route("/v1/sites/{site}/claims", post(claims::reissue))
        .route("/v1/sites/{site}/witness", get(reads::witness))
        .route("/v1/sites/{site}/witness-box", put(witness_box::set).delete(witness_box::remove))
        .route("/v1/sites/{site}/servers/{slot}", delete(sites::retire))
        .route("/v1/sites/{site}/bmc/{slot}", put(bmcs::set).delete(bmcs::remove))
        .route(
            "/v1/sites/{site}/servers/{slot}/drain",
            put(placement::drain).delete(placement::undrain),
        )
        .route(
            "/v1/sites/{site}/rebalance",
            put(placement::rebalance_on).delete(placement::rebalance_off),
        )
        .route("/v1/templates", get(reads::templates))
        .route("/v1/owner-bundle", get(reads::owner_bundle))
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(events::stream))
}
