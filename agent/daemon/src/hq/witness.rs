// SPDX-License-Identifier: Apache-2.0
//! Asking a witness: three seconds at most, the same request id on every try, and no belief in a
//! reply that the witness has not signed for this very try.
//!
//! It has a client of its own, so that a connection hung in the long poll's way never stands
//! between a frozen VM and its grant; reading the record now and then keeps it warm.

use super::client::{Answer, Call, HqClient, HqError};
use super::reply::{ReplyError, Trust, nonce};
use provisioning_protocol::desired::WITNESS_PATH;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};
use provisioning_protocol::witness_reply::{NONCE_HEADER, REPLY_BYTES_MAX};
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// One question's limit (ha.md: three tries of three seconds; the core repeats).
pub const LIMIT: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(150);

/// A witness, at HQ or on site.
#[derive(Debug, Clone)]
pub struct Witness {
    hq: HqClient,
    trust: Trust,
    disbelieved: Arc<Mutex<Option<ReplyError>>>,
}

impl Witness {
    /// Uses a client of its own; believes what `trust` says.
    #[must_use]
    pub fn new(hq: HqClient, trust: Trust) -> Self {
        Self { hq, trust, disbelieved: Arc::default() }
    }

    /// Why the last reply that came was not believed, if it was not.
    #[must_use]
    pub fn disbelieved(&self) -> Option<ReplyError> {
        *self.disbelieved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Swaps; `None` if no answer came within the limit.
    pub async fn swap(&self, swap: &WitnessSwap) -> Option<WitnessAnswer> {
        let body = serde_json::to_vec(swap).expect("plain data becomes JSON");
        let answer: WitnessAnswer = self.persist(Some(body)).await?;
        (answer.request_id == swap.request_id).then_some(answer)
    }

    /// Reads the record; `None` if no answer came within the limit.
    pub async fn record(&self) -> Option<WitnessRecord> {
        self.persist(None).await
    }

    /// Tries until the limit: a broken connection is replaced; a refusal is final, and so is a
    /// reply that is not believed. A try that hangs is given up half-way, so that a second one can
    /// go another way.
    async fn persist<T: DeserializeOwned>(&self, body: Option<Vec<u8>>) -> Option<T> {
        let end = Instant::now() + LIMIT;
        let mut limit = LIMIT / 2;
        loop {
            match timeout_at(end, self.attempt(body.clone(), limit)).await.ok()? {
                Ok(reply) => return self.note(reply),
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

    async fn attempt<T: DeserializeOwned>(
        &self,
        body: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<Result<T, ReplyError>, HqError> {
        let nonce = match nonce() {
            Ok(nonce) => nonce,
            Err(error) => return Ok(Err(error)),
        };
        let asked = body.clone().unwrap_or_default();
        let call = match body {
            Some(body) => Call::post(WITNESS_PATH, "application/json", body),
            None => Call::get(WITNESS_PATH),
        };
        let call = call.header(NONCE_HEADER, nonce.as_str()).at_most(REPLY_BYTES_MAX);
        let answer = self.hq.call(call.within(limit)).await?;
        Ok(self.believe(&nonce, &asked, &answer))
    }

    fn believe<T: DeserializeOwned>(
        &self,
        nonce: &str,
        asked: &[u8],
        answer: &Answer,
    ) -> Result<T, ReplyError> {
        self.trust.check(nonce, asked, answer.signature.as_deref(), &answer.body)?;
        serde_json::from_slice(&answer.body).map_err(|_| ReplyError::Content)
    }

    fn note<T>(&self, reply: Result<T, ReplyError>) -> Option<T> {
        let error = reply.as_ref().err().copied();
        *self.disbelieved.lock().unwrap_or_else(PoisonError::into_inner) = error;
        if let Some(error) = error {
            tracing::warn!(why = %error, "a witness's reply is not believed");
        }
        reply.ok()
    }
}
