// SPDX-License-Identifier: Apache-2.0
//! The loop that owns the core. It never waits for anything but inputs and the clock.

use super::executor::Executor;
use crate::identity::hardware;
use crate::status::Hub;
use agent_core::{BootFacts, Core, DurableState, Input, Millis, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(100);
/// Inputs taken in one go before the clock is looked at again.
const BATCH_MAX: usize = 32;
/// The pair's state grows by such steps on the disk.
const STEP_BYTES: usize = 1024;
/// Inputs waiting: far more than all workers together can have open.
pub const INPUTS_MAX: usize = 1024;

/// Reads the durable state from a slot's payload. A payload that passed its checksum and still
/// cannot be read is of another version: no state, which is safe, and loud.
#[must_use]
pub fn durable(payload: Option<Vec<u8>>) -> Option<DurableState> {
    let payload = payload?;
    match serde_json::from_slice(&payload) {
        Ok(state) => Some(state),
        Err(error) => {
            tracing::error!(%error, "pair state is of an unknown form");
            None
        }
    }
}

/// A slot's payload of few lengths, so that it is written in the place of the one before
/// ([`Slots::store`](crate::durable::slots::Slots::store)); JSON may end in blanks.
pub(super) fn to_slot(state: &DurableState) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(state).expect("plain data becomes JSON");
    bytes.resize(bytes.len().next_multiple_of(STEP_BYTES), b' ');
    bytes
}

/// The loop.
pub struct Engine {
    core: Core,
    executor: Executor,
    hub: Arc<Hub>,
    start: Instant,
    shown: Option<Status>,
}

impl Engine {
    /// Made of a core and those who carry out its effects.
    #[must_use]
    pub fn new(core: Core, executor: Executor, hub: Arc<Hub>) -> Self {
        Self { core, executor, hub, start: Instant::now(), shown: None }
    }

    /// Runs until all senders of inputs are gone. `alive` is called on every tick.
    pub async fn run(
        mut self,
        boot: BootFacts,
        mut inputs: mpsc::Receiver<Input>,
        alive: impl Fn(),
    ) {
        self.step(Input::Boot(Box::new(boot)));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    alive();
                    self.step(Input::Tick);
                }
                count = inputs.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    for input in batch.drain(..) {
                        self.step(input);
                    }
                }
            }
            self.show();
        }
    }

    fn step(&mut self, input: Input) {
        if let Input::PeerHeard { body, .. } = &input {
            let glance = (body.state, u32::try_from(body.running.len()).unwrap_or(u32::MAX));
            let at = hardware::boot_ms();
            self.hub.note(|state| state.peer = Some((glance.0, glance.1, at)));
        }
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        for effect in self.core.step(Millis(now), input) {
            self.executor.carry_out(effect);
        }
    }

    fn show(&mut self) {
        let status = self.core.status();
        if self.shown.as_ref() == Some(&status) {
            return;
        }
        let from = self.shown.as_ref().map(|old| old.state);
        if from != Some(status.state) {
            tracing::info!(?from, to = ?status.state, cause = status.cause, "pair");
        }
        self.hub.update(|state| state.pair = Some(status.clone()));
        self.shown = Some(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioning_protocol::ids::{Epoch, NodeSlot};

    #[test]
    fn states_of_about_the_same_size_are_as_long_in_a_slot_and_are_read_back() {
        let state = |n: u64| DurableState { epoch: Epoch(n), ..DurableState::fresh(NodeSlot::A) };
        let lengths = [0, 9, 10, u64::MAX].map(|n| {
            let bytes = to_slot(&state(n));
            assert_eq!(durable(Some(bytes.clone())), Some(state(n)));
            bytes.len()
        });
        assert_eq!(lengths, [lengths[0]; 4]);
    }
}
