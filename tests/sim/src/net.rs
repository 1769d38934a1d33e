// SPDX-License-Identifier: Apache-2.0
//! Datagrams between the agents (lost, repeated, late) and the way to the witness.

use crate::opts::Mutation;
use crate::world::{Event, Shell, World, path_index};
use agent_core::{Input, WitnessAt};
use provisioning_protocol::peer::{Path, PeerBody};
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
use std::sync::Arc;

impl World {
    pub fn send(&mut self, from: usize, path: Path, boot: u64, seq: u64, body: &Arc<PeerBody>) {
        if !self.open[path_index(path)][from] || self.rng.chance(self.loss) {
            return;
        }
        let copies = if self.rng.chance(self.loss / 2) { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.rng.chance(self.loss / 3);
            let delay = if late { self.rng.range(100, 1_500) } else { self.rng.range(1, 20) };
            let body = Arc::clone(body);
            self.at(delay, Event::Message { to: 1 - from, path, boot, seq, body });
        }
    }

    pub fn ask_witness(
        &mut self,
        from: usize,
        at: WitnessAt,
        request_id: u64,
        swap: Option<WitnessSwap>,
    ) {
        let agent = self.nodes[from].agent;
        let at = if self.mutated(Mutation::WrongWitness) && from == 1 { WitnessAt::Hq } else { at };
        if !self.reaches(at, from) {
            let fast = self.rng.coin();
            let delay = if fast { 50 } else { 3_000 };
            let what = Shell::Unreachable { request_id };
            return self.at(delay, Event::Shell { node: from, agent, what });
        }
        let slow = self.rng.chance(50);
        let delay = if slow { self.rng.range(500, 3_500) } else { self.rng.range(10, 150) };
        self.at(delay, Event::WitnessAsked { from, at, agent, request_id, swap });
    }

    pub fn witness_asked(
        &mut self,
        from: usize,
        at: WitnessAt,
        agent: u32,
        request_id: u64,
        swap: Option<&WitnessSwap>,
    ) {
        let up = if at == WitnessAt::Hq { self.witness_up } else { self.local.up };
        if !up || (at == WitnessAt::Local && self.box_dies(swap)) {
            return;
        }
        self.heard_by(at, from);
        let state = if at == WitnessAt::Hq { &mut self.witness } else { &mut self.local.state };
        let mut answer = match swap {
            Some(swap) => state.swap(swap),
            None => WitnessAnswer {
                request_id,
                granted: false,
                record: state.record.clone(),
                reason: String::new(),
            },
        };
        if let Some(swap) = swap.filter(|_| self.mutated(Mutation::WitnessGrantsAll)) {
            answer.granted = true;
            answer.record.version += 1;
            answer.record.epoch = swap.epoch;
            answer.record.in_sync.clone_from(&swap.in_sync);
            answer.record.winner = swap.winner;
        }
        if let Some(swap) = swap.filter(|_| answer.granted) {
            self.claim_won(at, swap);
        }
        if let Some(swap) = swap {
            self.note(|_| {
                format!("{at:?} witness: {swap:?} -> {} {:?}", answer.granted, answer.record)
            });
        }
        if self.answers(at, from) {
            let slow = self.rng.chance(50);
            let delay = if slow { self.rng.range(500, 3_500) } else { self.rng.range(10, 150) };
            self.at(delay, Event::WitnessAnswered { to: from, agent, answer: Box::new(answer) });
        }
    }

    pub fn message(&mut self, to: usize, path: Path, boot: u64, seq: u64, body: Arc<PeerBody>) {
        self.feed(to, Input::PeerHeard { path, boot, seq, body });
    }
}
