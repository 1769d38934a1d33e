// SPDX-License-Identifier: Apache-2.0
//! The long poll: answers at once when the revision differs, else when it changes, else 304.

use super::assemble;
use crate::app::App;
use crate::db::sites;
use crate::http::Agent;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::Query;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use provisioning_protocol::desired::POLL_WAIT_S_MAX;
use serde::Deserialize;
use std::time::Duration;

#[derive(Deserialize)]
pub(super) struct Wait {
    #[serde(default)]
    wait: u32,
}

pub(super) async fn poll(
    State(app): State<App>,
    agent: Agent,
    query: Result<Query<Wait>, QueryRejection>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Query(Wait { wait }) = query.map_err(|e| Failure::bad_request(e.body_text()))?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let wait = Duration::from_secs(u64::from(wait.min(POLL_WAIT_S_MAX)));
    let deadline = tokio::time::Instant::now() + wait;
    // Subscribed before the first look, so that no change can fall between look and wait.
    let mut changes = app.hub.wait_for(&agent.site);
    loop {
        changes.mark_unchanged();
        let revision = sites::revision(app.db.reader(), &agent.site).await?;
        if known.as_deref() != Some(tag(revision).as_str()) {
            break;
        }
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag(revision))]).into_response());
        }
    }
    let desired = assemble::desired(&app.db, &agent.site, agent.slot, app.clock.now_ms())
        .await?
        .ok_or_else(|| Failure::not_found("site", agent.site.as_str()))?;
    Ok(([(header::ETAG, tag(desired.revision))], Json(desired)).into_response())
}

fn tag(revision: u64) -> String {
    format!("\"{revision}\"")
}
