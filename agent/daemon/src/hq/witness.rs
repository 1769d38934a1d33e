// SPDX-License-Identifier: Apache-2.0
//! Asking the witness: three seconds at most, the same request id on every try.
//!
//! It has a client of its own, so that a connection hung in the long poll's way never stands
//! between a frozen VM and its grant; reading the record now and then keeps it warm.

use super::client::{Answer, Call, HqClient, HqError};
use provisioning_protocol::desired::WITNESS_PATH;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// One question's limit (ha.md: three tries of three seconds; the core repeats).
pub const LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(150);

/// The witness at HQ.
#[derive(Debug, Clone)]
pub struct Witness {
    hq: HqClient,
}

impl Witness {
    /// Uses a client of its own.
    #[must_use]
    pub fn new(hq: HqClient) -> Self {
        Self { hq }
    }

    /// Swaps; `None` if no answer came within the limit.
    pub async fn swap(&self, swap: &WitnessSwap) -> Option<WitnessAnswer> {
        let body = serde_json::to_vec(swap).expect("plain data becomes JSON");
        let answer = self
            .persist(|limit| {
                let call = Call::post(WITNESS_PATH, "application/json", body.clone());
                self.hq.call(call.within(limit))
            })
            .await?;
        let answer: WitnessAnswer = serde_json::from_slice(&answer.body).ok()?;
        (answer.request_id == swap.request_id).then_some(answer)
    }

    /// Reads the record; `None` if no answer came within the limit.
    pub async fn record(&self) -> Option<WitnessRecord> {
        let answer =
            self.persist(|limit| self.hq.call(Call::get(WITNESS_PATH).within(limit))).await?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// Tries until the limit: a broken connection is replaced, a refusal is final. A try that
    /// hangs is given up half-way, so that a second one can go another way.
    async fn persist<F, R>(&self, send: F) -> Option<Answer>
    where
        F: Fn(Duration) -> R,
        R: Future<Output = Result<Answer, HqError>>,
    {
        let end = Instant::now() + LIMIT;
        let mut limit = LIMIT / 2;
        loop {
            match timeout_at(end, send(limit)).await.ok()? {
                Ok(answer) => return Some(answer),
                Err(err @ (HqError::Refused(_) | HqError::Answer { .. })) => {
                    tracing::warn!(error = %err, "witness refused the question");
                    return None;
                }
                Err(err) => tracing::info!(error = %err, "witness not reached"),
            }
            if Instant::now() + PAUSE >= end {
                return None;
            }
            sleep(PAUSE).await;
            limit = end.saturating_duration_since(Instant::now());
        }
    }
}
