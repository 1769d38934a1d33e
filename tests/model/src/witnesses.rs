// SPDX-License-Identifier: Apache-2.0
//! The two witnesses: at HQ, and in half of the checks on site.

use crate::rules::Mutation;
use crate::site::{Event, Site};
use agent_core::{Input, WitnessAt};
use provisioning_protocol::witness::{WitnessAnswer, WitnessState, WitnessSwap};

/// A witness, and what lies between it and the servers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub state: WitnessState,
    /// Its record of before the first fault.
    pub backup: WitnessState,
    pub up: bool,
    /// Whether a server reaches it, and its answers the server.
    pub to: [bool; 2],
    pub from: [bool; 2],
}

impl Place {
    pub fn new(incarnation: u64) -> Self {
        let state = WitnessState::new(incarnation);
        Self { backup: state.clone(), state, up: true, to: [true; 2], from: [true; 2] }
    }

    /// Both servers can ask it.
    pub fn whole(&self) -> bool {
        self.up && self.to == [true; 2] && self.from == [true; 2]
    }

    pub fn mend(&mut self) {
        (self.up, self.to, self.from) = (true, [true; 2], [true; 2]);
    }

    pub fn cut(&mut self, node: usize) {
        (self.to[node], self.from[node]) = (false, false);
    }

    /// An older copy is put back, and says so by another incarnation.
    pub fn roll_back(&mut self) {
        let incarnation = self.state.record.incarnation + 1;
        self.state = self.backup.clone();
        self.state.record.incarnation = incarnation;
        self.state.last = None;
    }
}

pub fn index(at: WitnessAt) -> usize {
    usize::from(at == WitnessAt::Local)
}

impl Site {
    /// Where a question really goes.
    pub fn asked_at(&self, from: usize, at: WitnessAt) -> WitnessAt {
        let wrong = from == 1 && self.mutated(Mutation::WrongWitness);
        if wrong { WitnessAt::Hq } else { at }
    }

    pub fn reaches(&self, from: usize, at: WitnessAt) -> bool {
        let place = &self.witnesses[index(at)];
        place.up && place.to[from] && (at == WitnessAt::Hq || self.fitted)
    }

    pub fn ask(&mut self, from: usize, at: WitnessAt, swap: WitnessSwap) {
        let (agent, at) = (self.nodes[from].agent, self.asked_at(from, at));
        if self.reaches(from, at) {
            self.pending.push(Event::Ask { from, at, agent, swap });
        } else {
            let request_id = swap.request_id;
            self.later(1, Event::Unreachable { to: from, agent, request_id });
        }
    }

    /// A swap reaches its witness. One that has lost its power meanwhile says nothing.
    pub fn swap(&mut self, from: usize, at: WitnessAt, agent: u32, swap: &WitnessSwap) {
        let grants_all = self.mutated(Mutation::WitnessGrantsAll);
        let place = self.witness(at);
        if !place.up {
            return;
        }
        let mut answer = place.state.swap(swap);
        if grants_all {
            answer.granted = true;
            answer.record.version += 1;
            answer.record.epoch = swap.epoch;
            answer.record.in_sync.clone_from(&swap.in_sync);
            answer.record.winner = swap.winner;
        }
        if place.from[from] {
            let answer = Box::new(answer);
            self.pending.push(Event::Answer { to: from, agent, answer });
        }
    }

    pub fn read(&mut self, from: usize, at: WitnessAt, agent: u32, request_id: u64) {
        if self.nodes[from].agent != agent {
            return;
        }
        let at = self.asked_at(from, at);
        if !self.reaches(from, at) {
            self.feed(from, Input::WitnessUnreachable { request_id });
        } else if self.witness(at).from[from] {
            let record = self.witness(at).state.record.clone();
            let reason = String::new();
            let answer = WitnessAnswer { request_id, granted: false, record, reason };
            self.feed(from, Input::WitnessAnswered(answer));
        }
    }
}
