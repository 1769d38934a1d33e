// SPDX-License-Identifier: Apache-2.0
//! An operator's word that what this server holds is given up: the data of the two has diverged (by a
//! wrong word before, or by going on with older data), both may even go on alone, and the other one's is
//! to count. This server is then copied from it in full.
//!
//! ```text
//! word ──► no vote, on disk ──► VMs evicted ──► GiveUpVolumes (copies kept, metadata fresh) ──► resync
//! ```
//! Until the last step nothing is lost; a crash before it costs another word.

use crate::effect::Effect;
use crate::settle::Reason;
use crate::state::{DurableState, Millis};
use crate::{Core, Mode};

/// A word that could not be acted on for this long (a write was under way) is void.
const VALID_MS: u64 = 5_000;
/// Volumes that refuse each other without a word of the kernel's ("unrelated data") do so for this long.
const REFUSING_MS: u64 = 30_000;

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum GiveUp {
    /// Nobody asked.
    #[default]
    None,
    /// A person did.
    Asked(Millis),
    /// This server has no vote, or is about to have none.
    Decided,
    /// The volumes are being given up.
    Ordered,
}

impl Core {
    /// Takes the word, or says why not.
    pub(crate) fn give_up_asked(&mut self) {
        let busy = matches!(self.give_up, GiveUp::Decided | GiveUp::Ordered);
        match self.give_up_block() {
            Some(text) => self.report("give_up_refused", text.to_owned()),
            None if busy => self.report("give_up_refused", "It is under way.".to_owned()),
            None => self.give_up = GiveUp::Asked(self.now),
        }
    }

    /// Whether a person could choose between the two servers' data here.
    pub(crate) fn may_give_up(&self) -> bool {
        self.give_up_block().is_none()
    }

    fn give_up_block(&self) -> Option<&'static str> {
        let long = self.now.since(self.link_down_since) >= REFUSING_MS;
        let apart = self.link.is_some_and(|link| link.split_brain || (link.stand_alone && long));
        if self.was_up || !apart {
            return Some("The data on the two servers has not diverged.");
        }
        if !self.other_goes_on() {
            return Some(
                "The other server is not heard to go on alone with whole disks: what this one \
                 holds may be all there is.",
            );
        }
        None
    }

    fn other_goes_on(&self) -> bool {
        self.facts()
            .is_some_and(|peer| peer.mutual && peer.solo && peer.votes && peer.disks_up_to_date)
    }

    /// First the vote goes.
    pub(crate) fn give_up_vote(&mut self) -> bool {
        let GiveUp::Asked(at) = self.give_up else { return false };
        self.give_up = GiveUp::None;
        if self.now.since(at) >= VALID_MS || self.give_up_block().is_some() {
            return false;
        }
        self.give_up = GiveUp::Decided;
        if !self.durable.votes() {
            return false;
        }
        let theirs = self.facts().map_or(self.durable.epoch, |peer| peer.epoch);
        let epoch = self.durable.epoch.max(theirs);
        let state =
            DurableState { peer_watchdog: false, ..self.base(epoch, [self.me().peer()].into()) };
        self.persist(state, Reason::GaveUp);
        true
    }

    /// Then the VMs, as for any loser; then what they wrote.
    pub(crate) fn drive_give_up(&mut self) {
        // Once ordered, only its outcome ends it: the volumes may connect before that is told.
        if self.was_up && self.give_up != GiveUp::Ordered {
            self.give_up = GiveUp::None;
        }
        let free = self.mode == Mode::Wait
            && self.vms.here().next().is_none()
            && self.helpers.is_empty()
            && !self.durable.votes()
            && self.pending.is_none();
        if self.give_up == GiveUp::Decided && free && self.other_goes_on() {
            self.give_up = GiveUp::Ordered;
            self.out.push(Effect::GiveUpVolumes);
        }
    }

    /// The volumes are given up, or not (the shell says why).
    pub(crate) fn given_up(&mut self, ok: bool) {
        if self.give_up != GiveUp::Ordered {
            return;
        }
        self.give_up = GiveUp::None;
        if ok {
            let text = "What this server held was given up by an operator's word; it is copied from \
                        the other one in full.";
            self.report("given_up", text.to_owned());
        }
    }
}
