// SPDX-License-Identifier: Apache-2.0
//! The witness: shows a site's record and changes it by compare-and-swap; replies are signed.

use crate::app::App;
use crate::http::{Agent, demand_type, parse_json, read_body};
use crate::problem::{Answer, Failure};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use provisioning_protocol::BODY_BYTES_MAX;
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
use provisioning_protocol::witness_reply::{Asked, NONCE_HEADER, SIGNATURE_HEADER, is_nonce};
use provisioning_witness::sign;
use serde::Serialize;

pub(super) async fn show(
    State(app): State<App>,
    agent: Agent,
    headers: HeaderMap,
) -> Answer<Response> {
    let record = app.witness.record(&agent.site).await?;
    let missing = || Failure::not_found("witness record", agent.site.as_str());
    reply(&app, &agent, &headers, b"", &record.ok_or_else(missing)?)
}

pub(super) async fn swap(
    State(app): State<App>,
    agent: Agent,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    demand_type(&headers, &["application/json"])?;
    let body = read_body(&headers, body, BODY_BYTES_MAX).await?;
    let request: WitnessSwap = parse_json(&body)?;
    if request.by != agent.slot {
        let detail = format!("this server is {}, not {}", agent.slot, request.by);
        return Err(Failure::forbidden("other_slot", detail));
    }
    let answer = app
        .witness
        .swap(&agent.site, &request, app.clock.now_ms())
        .await?
        .ok_or_else(|| Failure::not_found("witness record", agent.site.as_str()))?;
    let WitnessAnswer { granted, record, reason, .. } = &answer;
    tracing::info!(site = %agent.site, slot = %agent.slot, granted, epoch = record.epoch.0,
        version = record.version, reason, "witness swap");
    let reply = reply(&app, &agent, &headers, &body, &answer);
    // Apart from the answer: a pair that waits for a grant must not wait for the event log.
    tokio::spawn(async move { note(&app, &agent, &request, &answer).await });
    reply
}

/// A reply signed with the voucher key, which the servers know from their claim stick.
fn reply(
    app: &App,
    agent: &Agent,
    headers: &HeaderMap,
    body: &[u8],
    value: &impl Serialize,
) -> Answer<Response> {
    let json = serde_json::to_vec(value)?;
    let mut answer = ([(header::CONTENT_TYPE, "application/json")], json.clone()).into_response();
    // An agent from before signed replies sends no nonce.
    let Some(nonce) = headers.get(NONCE_HEADER) else { return Ok(answer) };
    let nonce = nonce.to_str().ok().filter(|text| is_nonce(text)).ok_or_else(|| {
        Failure::bad_request(format!("{NONCE_HEADER}: 64 lower-case hex digits are expected"))
    })?;
    let asked = Asked { nonce, site: &agent.site, slot: agent.slot, body };
    let signature = sign::reply(&app.voucher_key, &asked, &json)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::internal(&crate::jws::JwsError::Sign))?;
    answer.headers_mut().insert(SIGNATURE_HEADER, signature);
    Ok(answer)
}

/// Logs the swap as an event. The swap stands on disk already; a failure here goes to the log.
async fn note(app: &App, agent: &Agent, request: &WitnessSwap, answer: &WitnessAnswer) {
    let (code, text) = match (request.winner, answer.granted) {
        (Some(_), true) => (
            "witness_grant",
            format!("witness: server {} may go on alone at epoch {}", agent.slot, request.epoch),
        ),
        (Some(_), false) => (
            "witness_refusal",
            format!("witness: server {} may not go on alone: {}", agent.slot, answer.reason),
        ),
        (None, true) => (
            "witness_published",
            format!("witness: the pair is in sync at epoch {}", request.epoch),
        ),
        (None, false) => return,
    };
    let stored = async {
        let mut tx = app.db.write().await?;
        let event = app.event(&mut tx, Some(&agent.site), Some(agent.slot), code, text).await?;
        tx.commit().await?;
        Ok::<_, sqlx::Error>(event)
    };
    match stored.await {
        Ok(event) => app.publish([event]),
        Err(error) => {
            let cause = crate::problem::chain(&error);
            tracing::error!(site = %agent.site, cause, "witness event not stored");
        }
    }
}
