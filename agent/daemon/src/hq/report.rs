// SPDX-License-Identifier: Apache-2.0
//! Reports to HQ: at once on a change (at most one a second), and every ten seconds.

use super::client::{Call, HqClient, HqError, error_chain};
use crate::enrol::backoff::Backoff;
use crate::status::Hub;
use provisioning_protocol::desired::REPORT_PATH;
use provisioning_protocol::report::{Report, ReportAnswer};
use std::sync::Arc;
use std::time::Duration;

const COALESCE: Duration = Duration::from_millis(700);
const PERIOD: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(10);

/// Runs for ever. `boot` tells this run of the agent from others.
pub async fn run(hq: HqClient, hub: Arc<Hub>, boot: u64) {
    let mut changes = hub.subscribe();
    let mut backoff = Backoff::capped(10);
    let mut seq = 0;
    loop {
        changes.mark_unchanged();
        seq += 1;
        let more = match send(&hq, &hub, boot, seq).await {
            Ok(more) => {
                backoff.reset();
                hub.hq_answered(hq.url());
                more
            }
            Err(err) => {
                tracing::info!(error = error_chain(&err), "report not delivered");
                hub.hq_failed(hq.url(), &error_chain(&err));
                if err.no_network() {
                    backoff.reset();
                }
                tokio::time::sleep(backoff.next_wait()).await;
                false
            }
        };
        if !more {
            // Nothing new for a while is a reason to report, too.
            drop(tokio::time::timeout(PERIOD, changes.changed()).await);
        }
        tokio::time::sleep(COALESCE).await;
    }
}

async fn send(hq: &HqClient, hub: &Hub, boot: u64, seq: u64) -> Result<bool, HqError> {
    let (events, mark) = hub.batch();
    let report = Report { boot, seq, status: hub.server(), events };
    let body = serde_json::to_vec(&report).expect("plain data becomes JSON");
    let answer = hq.call(Call::post(REPORT_PATH, "application/json", body).within(LIMIT)).await?;
    let answer: ReportAnswer = serde_json::from_slice(&answer.body)
        .map_err(|_| HqError::Answer { url: hq.url().to_owned(), what: "report answer" })?;
    Ok(if answer.seq >= seq { hub.confirm(mark) } else { false })
}
