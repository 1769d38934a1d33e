// SPDX-License-Identifier: Apache-2.0
//! When the witness is asked, told or read.

use crate::witness::Question;
use crate::{Core, Mode};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::witness::WitnessSwap;

/// Slot B tells the witness of a new pair only if slot A has not after this long.
const SECOND_TELLER_MS: u64 = 3_000;

impl Core {
    pub(crate) fn drive_witness(&mut self) {
        if let Some(again) = self.witness.retry(self.now, self.config.witness_retry_ms) {
            self.out.push(again);
        }
        match self.mode {
            Mode::Suspect if !self.was_up => self.drive_claim(),
            Mode::Pair => self.publish_pair(),
            Mode::Solo => self.publish_solo(),
            Mode::Boot if !self.durable.solo => {}
            Mode::Suspect | Mode::Loser | Mode::Wait | Mode::Boot => self.poll_witness(),
        }
    }

    /// Reads the record from time to time.
    pub(crate) fn poll_witness(&mut self) {
        let every = self.config.witness_poll_ms;
        let due = self.witness.answered_at().is_none_or(|at| self.now.since(at) >= every);
        if due && !self.witness.busy(self.now) {
            let ask = self.witness.ask(self.now, Question::Read, None);
            self.out.push(ask);
        }
    }

    /// R4: publish once both have the pair on disk.
    fn publish_pair(&mut self) {
        if self.witness.claiming() {
            self.witness.forget();
        }
        let both = self.both_at == Some(self.durable.epoch) && self.pair_confirmed();
        let behind = self.witness.record().is_some_and(|r| r.epoch < self.durable.epoch);
        let my_turn = self.me() == NodeSlot::A
            || self.peer.mutual_since(self.paths.current).is_some()
                && self
                    .witness
                    .answered_at()
                    .is_some_and(|at| self.now.since(at) >= SECOND_TELLER_MS);
        if both && behind && my_turn && !self.record_is_this_pair() {
            self.tell_pair();
        } else {
            self.poll_witness();
        }
    }

    pub(crate) fn tell_pair(&mut self) {
        if self.witness.busy(self.now) {
            return;
        }
        let epoch = self.durable.epoch;
        let swap = WitnessSwap {
            request_id: 0,
            by: self.me(),
            expect_epoch: self.witness.record().map_or(epoch, |record| record.epoch),
            epoch,
            in_sync: NodeSlot::BOTH.into(),
            winner: None,
        };
        let ask = self.witness.ask(self.now, Question::Tell, Some(swap));
        self.out.push(ask);
    }

    /// A server that went on alone by agreement makes it known, so that the record is not left
    /// behind the truth.
    fn publish_solo(&mut self) {
        if self.witness.claiming() {
            self.witness.forget();
        }
        let epoch = self.durable.epoch;
        let stands = self.witness.record().filter(|record| {
            let mine = record.winner.is_none_or(|winner| winner == self.me());
            record.epoch < epoch && record.in_sync.contains(&self.me()) && mine
        });
        let Some(stands) = stands.map(|record| record.epoch) else { return self.poll_witness() };
        if self.witness.busy(self.now) || !self.solo_in_force() {
            return;
        }
        let swap = WitnessSwap {
            request_id: 0,
            by: self.me(),
            expect_epoch: stands,
            epoch,
            in_sync: [self.me()].into(),
            winner: Some(self.me()),
        };
        let ask = self.witness.ask(self.now, Question::Tell, Some(swap));
        self.out.push(ask);
    }
}
