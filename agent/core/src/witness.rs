// SPDX-License-Identifier: Apache-2.0
//! Talking to the witness: one question at a time, the same id on every retry, and no belief in
//! a record older than one already seen (rule R10).

use crate::bounds::record_is_sound;
use crate::effect::{Effect, WitnessAt};
use crate::state::{DurableState, Millis, WitnessMark};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::witness::{EPOCH_AHEAD_MAX, WitnessAnswer, WitnessRecord, WitnessSwap};

/// How far the ids of questions to a witness on site are from those to HQ.
const LOCAL_IDS: u64 = 1 << 50;

/// Pause after a refused swap, and after further ones in a row.
const REFUSED_MS: u64 = 200;
const REFUSED_AGAIN_MS: u64 = 2_000;

/// Why the witness is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// Only to read the record.
    Read,
    /// To go on alone from this epoch.
    Claim { base: Epoch },
    /// To tell it of the pair, or of a server that went on alone by the pair's own agreement.
    Tell,
}

#[derive(Debug, Clone, Hash)]
struct Asked {
    id: u64,
    at: Millis,
    question: Question,
    swap: Option<WitnessSwap>,
}

/// Leave to go on alone, not yet durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    /// The epoch the claim was made at.
    pub base: Epoch,
    /// The epoch won.
    pub epoch: Epoch,
    /// The witness after it.
    pub mark: WitnessMark,
}

/// The witness as known in this boot.
#[derive(Debug, Clone, Hash)]
pub(crate) struct WitnessView {
    at: WitnessAt,
    slot: NodeSlot,
    next_id: u64,
    asked: Option<Asked>,
    record: Option<WitnessRecord>,
    answered_at: Option<Millis>,
    failed_at: Option<Millis>,
    quiet_until: Millis,
    refusals: u32,
    /// A grant that waits to be made durable.
    pub grant: Option<Grant>,
}

impl WitnessView {
    /// Nothing known.
    pub fn new(slot: NodeSlot, at: WitnessAt, nonce: u64) -> Self {
        let apart = if at == WitnessAt::Hq { 0 } else { LOCAL_IDS };
        Self {
            at,
            slot,
            next_id: nonce.wrapping_add(apart),
            asked: None,
            record: None,
            answered_at: None,
            failed_at: None,
            quiet_until: Millis(0),
            refusals: 0,
            grant: None,
        }
    }

    /// Where it stands.
    pub fn at(&self) -> WitnessAt {
        self.at
    }

    /// Voids the open question and a grant not yet made durable.
    pub fn drop_all(&mut self) {
        (self.asked, self.grant) = (None, None);
    }

    /// The record as last read, believed or not.
    pub fn record(&self) -> Option<&WitnessRecord> {
        self.record.as_ref()
    }

    /// The record, if it is not older than what was seen before.
    pub fn trusted(&self, durable: &DurableState) -> Option<&WitnessRecord> {
        self.record.as_ref().filter(|record| believable(record, durable.last_seen))
    }

    /// Highest epoch the witness is known to have reached, within reason.
    pub fn epoch_seen(&self, mine: Epoch) -> Epoch {
        let limit = Epoch(mine.0.saturating_add(EPOCH_AHEAD_MAX));
        self.record.as_ref().map_or(mine, |record| record.epoch).min(limit)
    }

    /// When the witness last answered.
    pub fn answered_at(&self) -> Option<Millis> {
        self.answered_at
    }

    /// Whether the last request got no answer.
    pub fn unreachable(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Whether a question is open, or a pause after a failure.
    pub fn busy(&self, now: Millis) -> bool {
        self.asked.is_some() || now < self.quiet_until
    }

    /// Whether a claim is open.
    pub fn claiming(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| matches!(asked.question, Question::Claim { .. }))
    }

    /// Gives up the open question; its answer will be ignored.
    pub fn forget(&mut self) {
        self.asked = None;
    }

    /// Opens a question and returns the effect that sends it.
    pub fn ask(&mut self, now: Millis, question: Question, swap: Option<WitnessSwap>) -> Effect {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let swap = swap.map(|swap| WitnessSwap { request_id: id, by: self.slot, ..swap });
        let asked = Asked { id, at: now, question, swap };
        let effect = send(self.at, &asked);
        self.asked = Some(asked);
        effect
    }

    /// Sends an open swap again, under its old id, when its time is over; drops an open read.
    pub fn retry(&mut self, now: Millis, retry_ms: u64) -> Option<Effect> {
        let asked = self.asked.as_mut()?;
        if now.since(asked.at) < retry_ms {
            return None;
        }
        self.failed_at = self.failed_at.or(Some(now));
        if asked.swap.is_none() {
            self.asked = None;
            self.quiet_until = Millis(now.0 + retry_ms);
            return None;
        }
        asked.at = now;
        Some(send(self.at, asked))
    }

    /// A request failed: the retry comes a second later.
    pub fn failed(&mut self, now: Millis, request_id: u64, retry_ms: u64) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.id == request_id) else {
            return;
        };
        self.failed_at = self.failed_at.or(Some(now));
        let wait = retry_ms.min(1_000);
        asked.at = Millis((now.0 + wait).saturating_sub(retry_ms));
        if asked.swap.is_none() {
            self.asked = None;
            self.quiet_until = Millis(now.0 + retry_ms);
        }
    }

    /// Takes an answer. Whether it was to the open question.
    pub fn answered(&mut self, now: Millis, answer: WitnessAnswer, durable: &DurableState) -> bool {
        let mine = self.asked.as_ref().is_some_and(|asked| asked.id == answer.request_id);
        if !mine || !record_is_sound(&answer.record) {
            return false;
        }
        let asked = self.asked.take().expect("checked above");
        self.answered_at = Some(now);
        self.failed_at = None;
        if let (Question::Claim { base }, Some(swap)) = (&asked.question, &asked.swap)
            && answer.granted
            && grant_is_sound(swap, &answer.record, durable.last_seen)
        {
            let mark = WitnessMark::of(&answer.record);
            self.grant = Some(Grant { base: *base, epoch: swap.epoch, mark });
        }
        if answer.granted {
            self.refusals = 0;
        } else if asked.swap.is_some() {
            // The first refusal mostly means that the record has moved: ask anew at once.
            let wait = if self.refusals == 0 { REFUSED_MS } else { REFUSED_AGAIN_MS };
            self.refusals = self.refusals.saturating_add(1);
            self.quiet_until = Millis(now.0 + wait);
        }
        self.record = Some(answer.record);
        true
    }
}

fn send(at: WitnessAt, asked: &Asked) -> Effect {
    match &asked.swap {
        Some(swap) => Effect::AskWitness { at, swap: swap.clone() },
        None => Effect::ReadWitness { at, request_id: asked.id },
    }
}

/// Rule R10: same incarnation, neither version nor epoch behind what was seen.
pub(crate) fn believable(record: &WitnessRecord, seen: Option<WitnessMark>) -> bool {
    seen.is_some_and(|seen| {
        record.incarnation == seen.incarnation
            && record.version >= seen.version
            && record.epoch >= seen.epoch
    })
}

fn grant_is_sound(swap: &WitnessSwap, record: &WitnessRecord, seen: Option<WitnessMark>) -> bool {
    believable(record, seen)
        && seen.is_some_and(|seen| record.version > seen.version)
        && record.epoch == swap.epoch
        && record.winner == swap.winner
        && record.in_sync == swap.in_sync
}
