// SPDX-License-Identifier: Apache-2.0
//! M4: a server says how its enrolment went.

use crate::app::App;
use crate::http::{Agent, ReadJson};
use crate::problem::{Answer, Failure};
use axum::extract::State;
use axum::http::StatusCode;
use provisioning_protocol::enrol::EnrollStatus;

pub(super) async fn note(
    State(app): State<App>,
    agent: Agent,
    ReadJson(status): ReadJson<EnrollStatus>,
) -> Answer<StatusCode> {
    if status.version != 1 {
        return Err(Failure::invalid("version: only 1 is known"));
    }
    let (code, text) = if status.status {
        ("enroll_confirmed", "the server confirmed its enrolment".to_owned())
    } else {
        ("enroll_failed", format!("the server could not finish its enrolment: {}", status.reason))
    };
    let mut tx = app.db.write().await?;
    let event = app.event(&mut tx, Some(&agent.site), Some(agent.slot), code, text).await?;
    tx.commit().await?;
    app.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}
