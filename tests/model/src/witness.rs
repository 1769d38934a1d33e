// SPDX-License-Identifier: Apache-2.0
//! The witnesses of a site: HQ's, and perhaps a box on site. Which of them counts is the cores'
//! business (note 0009); here both answer whoever reaches them.

use crate::faults::LONG;
use crate::rules::Mutation;
use crate::site::{Event, Site, slot};
use agent_core::{DurableState, Input, Tie, WitnessAt, WitnessMark};
use provisioning_protocol::witness::{WitnessAnswer, WitnessState, WitnessSwap};

/// One witness, and the ways to it.
#[derive(Debug, Clone, Hash)]
pub struct Witness {
    pub state: WitnessState,
    /// What an older copy of it holds.
    pub backup: WitnessState,
    pub up: bool,
    /// Whether each server is told to count on it.
    pub set: [bool; 2],
    /// Whether a server reaches it, and its answers the server.
    pub to: [bool; 2],
    pub from: [bool; 2],
}

impl Witness {
    pub fn new(incarnation: u64) -> Self {
        let state = WitnessState::new(incarnation);
        let (set, to, from) = ([true; 2], [true; 2], [true; 2]);
        Self { backup: state.clone(), state, up: true, set, to, from }
    }

    pub fn whole(&self) -> bool {
        self.up && [self.set, self.to, self.from] == [[true; 2]; 3]
    }

    pub fn cut(&mut self, node: usize) {
        (self.to[node], self.from[node]) = (false, false);
    }

    pub fn mend_paths(&mut self) {
        (self.to, self.from) = ([true; 2], [true; 2]);
    }

    /// Comes back as what an older copy holds, and knows that it did; or does not know.
    fn roll_back(&mut self, noticed: bool) {
        let incarnation = self.state.record.incarnation + u64::from(noticed);
        self.state = self.backup.clone();
        self.state.record.incarnation = incarnation;
        self.state.last = None;
    }

    fn serves(&self, node: usize) -> bool {
        self.up && self.set[node] && self.to[node]
    }
}

impl Site {
    pub fn witness(&mut self, at: WitnessAt) -> &mut Witness {
        match at {
            WitnessAt::Hq => &mut self.hq,
            WitnessAt::Local => self.on_site.as_mut().expect("nobody asks a box that is not there"),
        }
    }

    /// A swap goes on its way.
    pub fn ask(&mut self, from: usize, at: WitnessAt, swap: WitnessSwap) {
        let (at, agent) = (self.asked(from, at), self.nodes[from].agent);
        if self.witness(at).serves(from) {
            self.pending.push(Event::Ask { from, at, agent, swap });
        } else {
            let request_id = swap.request_id;
            self.later(1, Event::Unreachable { to: from, agent, request_id });
        }
    }

    /// The witness a server asks: the one its core names, unless that rule is broken.
    fn asked(&self, from: usize, at: WitnessAt) -> WitnessAt {
        if self.mutated(Mutation::WrongWitness) && from == 1 { WitnessAt::Hq } else { at }
    }

    /// A swap arrives.
    pub fn swap(&mut self, from: usize, at: WitnessAt, agent: u32, swap: &WitnessSwap) {
        let all = self.mutated(Mutation::WitnessGrantsAll);
        let witness = self.witness(at);
        if !witness.up {
            return;
        }
        let mut answer = witness.state.swap(swap);
        if all {
            answer.granted = true;
            answer.record.version += 1;
            answer.record.epoch = swap.epoch;
            answer.record.in_sync.clone_from(&swap.in_sync);
            answer.record.winner = swap.winner;
        }
        self.answer(from, at, agent, answer);
    }

    fn answer(&mut self, to: usize, at: WitnessAt, agent: u32, answer: WitnessAnswer) {
        if self.witness(at).from[to] {
            let answer = Box::new(answer);
            self.pending.push(Event::Answer { to, at, agent, answer });
        }
    }

    /// The record is asked for and answered.
    pub fn read(&mut self, from: usize, at: WitnessAt, agent: u32, request_id: u64) {
        if self.nodes[from].agent != agent {
            return;
        }
        let at = self.asked(from, at);
        let witness = self.witness(at);
        if !witness.serves(from) {
            self.feed(from, Input::WitnessUnreachable { request_id });
        } else if witness.from[from] {
            let record = witness.state.record.clone();
            let reason = String::new();
            let answer = WitnessAnswer { request_id, granted: false, record, reason };
            self.feed(from, Input::WitnessAnswered(answer));
        }
    }

    /// What a server must not do: it takes the record of a witness it has just come to for the pair's.
    pub fn believe(&self, state: &mut DurableState) {
        let local = self.on_site.as_ref().filter(|_| state.tie == Tie::Local);
        let record = &local.unwrap_or(&self.hq).state.record;
        state.last_seen = state.last_seen.or(Some(WitnessMark::of(record)));
    }

    /// A witness comes back as an older copy of itself.
    pub fn roll_back(&mut self, at: WitnessAt) {
        let noticed = !self.mutated(Mutation::UnnoticedCopy);
        self.witness(at).roll_back(noticed);
    }

    /// The box loses power: for good, or for long enough to lose the tie-break.
    pub fn box_off(&mut self, for_good: bool) {
        self.witness(WitnessAt::Local).up = false;
        if !for_good {
            self.later(LONG, Event::BoxOn);
        }
    }

    /// It does so over a swap: its line is on disk or torn, and in both cases nobody is answered.
    pub fn box_dies(&mut self, at: usize, landed: bool, for_good: bool) {
        if let Event::Ask { from, agent, swap, .. } = self.pending.remove(at) {
            let local = self.witness(WitnessAt::Local);
            let mut written = local.state.clone();
            let answer = written.swap(&swap);
            if landed {
                local.state = written;
            }
            if self.mutated(Mutation::AnswerBeforeSync) {
                self.answer(from, WitnessAt::Local, agent, answer);
            }
        }
        self.box_off(for_good);
    }

    /// HQ puts the box into service, or takes it out, as far as one server has heard.
    pub fn box_set(&mut self, node: usize, set: bool) {
        let local = self.witness(WitnessAt::Local);
        if local.set[node] != set {
            local.set[node] = set;
            self.tell_box(node);
        }
    }

    pub fn tell_box(&mut self, node: usize) {
        let set = self.on_site.as_ref().is_some_and(|local| local.set[node]);
        self.feed(node, Input::LocalWitness(set));
    }

    pub fn mend_box(&mut self) {
        let Some(local) = &mut self.on_site else { return };
        local.up = true;
        local.mend_paths();
        (0..2).for_each(|node| self.box_set(node, true));
    }

    /// Where the tie-break of a healthy pair lies.
    pub fn home_tie(&self) -> Tie {
        if self.on_site.is_some() { Tie::Local } else { Tie::Hq }
    }

    /// What a change of the durable state means for the box.
    pub fn note_box(&mut self, node: usize, old: &DurableState, new: &DurableState) {
        let turn = match (old.tie, new.tie) {
            (Tie::Hq, Tie::Local) => "HQ to box",
            (Tie::Node(_), Tie::Local) => "server to box",
            (Tie::Local, Tie::Hq) => "box to HQ",
            (Tie::Local, Tie::Node(_)) => "box to server",
            _ => "",
        };
        self.turn(turn);
        let Some(local) = self.on_site.as_ref().filter(|_| new.solo && !old.solo) else { return };
        let record = &local.state.record;
        if new.tie == Tie::Local && record.winner == Some(slot(node)) && record.epoch == new.epoch {
            self.turn("grant by box");
        }
    }
}
