// SPDX-License-Identifier: Apache-2.0
//! A person on site who says, truly, that the other server is off, and what a witness could know of
//! who was there last: how often it heard each server since it last heard the other one (design note
//! 0015).

use crate::world::{World, slot};
use agent_core::{Input, WitnessAt};
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::witness::{WitnessRecord, WitnessSwap};

/// Per thousand looks (ten a second): somebody is there and says it.
const THERE: u64 = 5;
/// Fewer contacts than these may be of one poll that was under way.
const CONTACTS: u32 = 3;

/// What each witness has heard; by witness and server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contacts {
    /// How often the other server was heard since this one.
    others: [[u32; 2]; 2],
    /// The same when this one was heard first after its last start, until it is in a pair again.
    gap: [[Option<u32>; 2]; 2],
    power: [[Option<u32>; 2]; 2],
    /// At the last claim that a server won right after a start.
    last_gap: u32,
}

impl World {
    /// A witness hears a server.
    pub(crate) fn heard_by(&mut self, at: WitnessAt, from: usize) {
        if !self.opts.operator {
            return;
        }
        let (place, power) = (place(at), self.nodes[from].power);
        let state = self.nodes[from].core.as_ref().map(|core| core.status().state);
        let contacts = &mut self.contacts;
        if contacts.power[place][from].replace(power) != Some(power) {
            contacts.gap[place][from] = Some(contacts.others[place][from]);
        } else if state == Some(PeerState::Pair) {
            contacts.gap[place][from] = None;
        }
        contacts.others[place][from] = 0;
        contacts.others[place][1 - from] += 1;
    }

    /// A server may go on alone, perhaps right after a start.
    pub(crate) fn claim_won(&mut self, at: WitnessAt, swap: &WitnessSwap) {
        let from = usize::from(swap.by == slot(1));
        let Some(gap) = self.contacts.gap[place(at)][from].filter(|_| swap.winner.is_some()) else {
            return;
        };
        self.contacts.last_gap = gap;
        self.stats.cold_claims += 1;
        self.stats.late_claims += u64::from(gap >= CONTACTS);
    }

    /// Whether a count of contacts would have held up the last claim.
    pub(crate) fn contacts_would_ask(&self) -> bool {
        self.contacts.last_gap >= CONTACTS
    }

    /// Says it where it is true, and where no record says that the other one went on alone: HQ was
    /// asked.
    pub(crate) fn person(&mut self, node: usize) {
        let (here, other) = (&self.nodes[node], &self.nodes[1 - node]);
        let frozen = here.alive()
            && here.core.as_ref().is_some_and(|core| core.status().state == PeerState::Suspect);
        let won = |record: &WitnessRecord| record.winner == Some(slot(1 - node));
        let alone = other.disk.as_ref().is_some_and(|disk| disk.solo)
            || won(&self.witness.record)
            || won(&self.local.state.record);
        if frozen && !other.up && !alone && !self.quiet && self.rng.chance(THERE) {
            self.note(|_| format!("** a person at {} says that the other is off", slot(node)));
            self.feed(node, Input::OperatorDeclares);
        }
    }
}

fn place(at: WitnessAt) -> usize {
    usize::from(at == WitnessAt::Local)
}
