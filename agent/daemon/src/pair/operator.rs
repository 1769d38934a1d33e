// SPDX-License-Identifier: Apache-2.0
//! `operator.sock`: what a person at the console orders.
//!
//! One JSON line in, one out: `{"order":"declare_peer_off","reason":"…"}` (or `use_older_data`, `give_up_data`) →
//! `{"done":true,"text":"…"}`.
//! Only root may ask; the console makes sure that a person meant it.

use super::socket;
use crate::status::Hub;
use agent_core::Input;
use provisioning_protocol::console::{LINE_BYTES_MAX, OperatorAnswer, OperatorOrder};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// The core decides within a step; its state must reach the disk first.
const OUTCOME_LIMIT: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(100);

/// Takes orders.
#[derive(Clone)]
pub struct Operator {
    hub: Arc<Hub>,
    inputs: mpsc::Sender<Input>,
}

impl Operator {
    /// Hands orders to the core.
    #[must_use]
    pub fn new(hub: Arc<Hub>, inputs: mpsc::Sender<Input>) -> Self {
        Self { hub, inputs }
    }

    /// Serves for ever, one person at a time.
    pub async fn serve(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = self.one(stream).await {
                        tracing::info!(%error, "operator's connection ended");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "operator's connection not accepted");
                    sleep(POLL).await;
                }
            }
        }
    }

    async fn one(&self, stream: UnixStream) -> io::Result<()> {
        let (line, _, mut write) = socket::first_line(stream, LINE_BYTES_MAX).await?;
        let answer = match serde_json::from_str(&line) {
            Ok(OperatorOrder::DeclarePeerOff { reason }) => {
                self.note("declares the other server off", &reason);
                self.order(Input::OperatorDeclares).await
            }
            Ok(OperatorOrder::UseOlderData { reason }) => {
                self.note("orders this server to go on with older data", &reason);
                self.order(Input::OperatorRestores).await
            }
            Ok(OperatorOrder::GiveUpData { reason }) => {
                self.note("gives up what this server holds", &reason);
                self.order(Input::OperatorGivesUp).await
            }
            Err(error) => OperatorAnswer { done: false, text: format!("No such order: {error}") },
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await
    }

    fn note(&self, what: &str, reason: &str) {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(100).collect();
        self.hub.event("operator", format!("{what}: {reason}"));
    }

    async fn order(&self, order: Input) -> OperatorAnswer {
        drop(self.inputs.send(order).await);
        let until = Instant::now() + OUTCOME_LIMIT;
        while Instant::now() < until {
            sleep(POLL).await;
            if let Some(outcome) = self.outcome() {
                return outcome;
            }
        }
        answer(
            false,
            "The agent has the order and is at it: the first page shows what comes of it.",
        )
    }

    /// What the core made of the last order, if it has.
    fn outcome(&self) -> Option<OperatorAnswer> {
        let events = self.hub.local().events;
        let mut since_order = events.iter().rev().take_while(|event| event.code != "operator");
        since_order.find_map(|event| match event.code.as_str() {
            "declared" | "restored" => Some(answer(true, "This server goes on alone.")),
            "given_up" => Some(answer(true, "This server is copied from the other one now.")),
            "declare_refused" | "restore_refused" | "restore_failed" | "give_up_refused"
            | "give_up_failed" => Some(answer(false, &event.text)),
            _ => None,
        })
    }
}

fn answer(done: bool, text: &str) -> OperatorAnswer {
    OperatorAnswer { done, text: text.to_owned() }
}
