// SPDX-License-Identifier: Apache-2.0
//! The witness record of a site and the one rule by which it changes: compare-and-swap.
//!
//! The record is what a third party must remember so that two servers which cannot talk never
//! both go on alone: not only who won, but who held every acknowledged write (`in_sync`).

use crate::ids::{Epoch, NodeSlot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Epochs rise by ones: further ahead than this is nonsense, and nobody could ever follow.
pub const EPOCH_AHEAD_MAX: u64 = 1_000_000;

/// What the witness remembers of one site.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WitnessRecord {
    /// Counts every change; the compare side of the swap.
    pub version: u64,
    /// Changes when the witness lost or was restored from an older state.
    pub incarnation: u64,
    /// The pair's epoch at the last change.
    pub epoch: Epoch,
    /// Servers that hold every acknowledged write.
    pub in_sync: BTreeSet<NodeSlot>,
    /// The server allowed to go on alone at `epoch`, if any.
    pub winner: Option<NodeSlot>,
}

/// A server's wish to change the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WitnessSwap {
    /// Same id, same answer: a retry after a lost reply must not count twice.
    pub request_id: u64,
    /// The server that asks.
    pub by: NodeSlot,
    /// Epoch the asker stands at; the record must stand there too (or earlier, when publishing).
    pub expect_epoch: Epoch,
    /// The new state.
    pub epoch: Epoch,
    /// The new in-sync set.
    pub in_sync: BTreeSet<NodeSlot>,
    /// The new winner: `Some(by)` to go on alone, `None` to publish a healthy pair.
    pub winner: Option<NodeSlot>,
}

/// The witness's answer; the record is always the one in force after the request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WitnessAnswer {
    /// The request this answers.
    pub request_id: u64,
    /// Whether the swap took place (now, or earlier under the same id).
    pub granted: bool,
    /// The record in force.
    pub record: WitnessRecord,
    /// Why not, in words for the log; empty when granted.
    #[serde(default)]
    pub reason: String,
}

/// The last swap a witness carried out for a site, kept to answer retries.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WitnessState {
    /// The record in force.
    pub record: WitnessRecord,
    /// The swap that made it, if one did.
    pub last: Option<WitnessSwap>,
}

impl WitnessState {
    /// A site nobody has published yet: epoch 0, nobody in sync, so that no one can win.
    #[must_use]
    pub fn new(incarnation: u64) -> Self {
        let record = WitnessRecord {
            version: 0,
            incarnation,
            epoch: Epoch(0),
            in_sync: BTreeSet::new(),
            winner: None,
        };
        Self { record, last: None }
    }

    /// Applies a swap and says what came of it. Pure: the caller stores `self` durably before it
    /// sends the answer.
    pub fn swap(&mut self, request: &WitnessSwap) -> WitnessAnswer {
        let answer = |granted, record: &WitnessRecord, reason: &str| WitnessAnswer {
            request_id: request.request_id,
            granted,
            record: record.clone(),
            reason: reason.to_owned(),
        };
        if self.last.as_ref() == Some(request) {
            return answer(true, &self.record, "");
        }
        if let Err(reason) = self.allowed(request) {
            return answer(false, &self.record, reason);
        }
        self.record.version += 1;
        self.record.epoch = request.epoch;
        self.record.in_sync.clone_from(&request.in_sync);
        self.record.winner = request.winner;
        self.last = Some(request.clone());
        answer(true, &self.record, "")
    }

    fn allowed(&self, request: &WitnessSwap) -> Result<(), &'static str> {
        let record = &self.record;
        if request.epoch <= record.epoch {
            return Err("the epoch asked for is not newer than the record");
        }
        if request.epoch.0 - record.epoch.0 > EPOCH_AHEAD_MAX {
            return Err("the epoch asked for is far ahead of the record");
        }
        if !request.in_sync.contains(&request.by) {
            return Err("the asker leaves itself out of the in-sync set");
        }
        match request.winner {
            Some(winner) if winner != request.by => Err("a server may only claim for itself"),
            Some(_) => self.claim_allowed(request),
            None => self.publish_allowed(request),
        }
    }

    fn claim_allowed(&self, request: &WitnessSwap) -> Result<(), &'static str> {
        let record = &self.record;
        if request.expect_epoch != record.epoch {
            return Err("the record stands at another epoch");
        }
        if !record.in_sync.contains(&request.by) {
            return Err("the asker is not in the in-sync set");
        }
        if record.winner.is_some_and(|winner| winner != request.by) {
            return Err("the other server won already");
        }
        if request.in_sync.len() != 1 {
            return Err("a server that goes on alone is alone in the in-sync set");
        }
        Ok(())
    }

    fn publish_allowed(&self, request: &WitnessSwap) -> Result<(), &'static str> {
        // A published pair needs both: only the pair's own agreement can bring a server back.
        if request.in_sync.len() != 2 {
            return Err("a pair without a winner has both servers in sync");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> BTreeSet<NodeSlot> {
        NodeSlot::BOTH.into_iter().collect()
    }

    fn publish(by: NodeSlot, epoch: u64) -> WitnessSwap {
        WitnessSwap {
            request_id: epoch,
            by,
            expect_epoch: Epoch(0),
            epoch: Epoch(epoch),
            in_sync: both(),
            winner: None,
        }
    }

    fn claim(by: NodeSlot, at: u64) -> WitnessSwap {
        WitnessSwap {
            request_id: at + 100,
            by,
            expect_epoch: Epoch(at),
            epoch: Epoch(at + 1),
            in_sync: [by].into(),
            winner: Some(by),
        }
    }

    #[test]
    fn only_one_of_two_claims_at_one_epoch_is_granted() {
        let mut witness = WitnessState::new(1);
        assert!(witness.swap(&publish(NodeSlot::A, 1)).granted);
        assert!(witness.swap(&claim(NodeSlot::A, 1)).granted);
        let late = witness.swap(&claim(NodeSlot::B, 1));
        assert!(!late.granted);
        assert_eq!(late.record.winner, Some(NodeSlot::A));
    }

    #[test]
    fn a_repeated_request_gets_the_same_answer_and_changes_nothing() {
        let mut witness = WitnessState::new(1);
        witness.swap(&publish(NodeSlot::A, 1));
        let first = witness.swap(&claim(NodeSlot::B, 1));
        let version = witness.record.version;
        assert_eq!(witness.swap(&claim(NodeSlot::B, 1)), first);
        assert_eq!(witness.record.version, version);
    }

    #[test]
    fn a_server_out_of_the_in_sync_set_cannot_win() {
        let mut witness = WitnessState::new(1);
        witness.swap(&publish(NodeSlot::A, 1));
        witness.swap(&claim(NodeSlot::A, 1));
        let stale =
            WitnessSwap { expect_epoch: Epoch(2), epoch: Epoch(3), ..claim(NodeSlot::B, 1) };
        assert!(!witness.swap(&stale).granted);
    }

    #[test]
    fn nobody_can_win_a_site_that_was_never_published() {
        let mut witness = WitnessState::new(1);
        assert!(!witness.swap(&claim(NodeSlot::A, 0)).granted);
    }

    #[test]
    fn an_epoch_nobody_could_follow_is_not_taken_from_anyone() {
        let mut witness = WitnessState::new(1);
        assert!(!witness.swap(&publish(NodeSlot::A, u64::MAX)).granted);
        assert!(!witness.swap(&publish(NodeSlot::A, EPOCH_AHEAD_MAX + 1)).granted);
        assert!(witness.swap(&publish(NodeSlot::A, EPOCH_AHEAD_MAX)).granted);
    }
}
