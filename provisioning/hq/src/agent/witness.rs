// SPDX-License-Identifier: Apache-2.0
//! The witness: shows a site's record and changes it by compare-and-swap.

use crate::app::App;
use crate::http::{Agent, ReadJson};
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::State;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};

pub(super) async fn show(State(app): State<App>, agent: Agent) -> Answer<Json<WitnessRecord>> {
    let record = app.witness.record(&agent.site).await?;
    record.map(Json).ok_or_else(|| Failure::not_found("witness record", agent.site.as_str()))
}

pub(super) async fn swap(
    State(app): State<App>,
    agent: Agent,
    ReadJson(request): ReadJson<WitnessSwap>,
) -> Answer<Json<WitnessAnswer>> {
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
    // Apart from the answer: a pair that waits for a grant must not wait for the event log.
    let told = answer.clone();
    tokio::spawn(async move { note(&app, &agent, &request, &told).await });
    Ok(Json(answer))
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
