// SPDX-License-Identifier: Apache-2.0
//! How a site goes on: rounds of time, and within a round whatever is on its way, in any order.

use crate::rules::Bounds;
use crate::site::{Event, Site, slot};
use agent_core::{Input, WitnessAt};
use provisioning_protocol::peer::Path;
use std::sync::Arc;

/// From a healed site to a healthy pair, at most: a lease that still runs out, the graces of a
/// cold start, a resync, and the rounds of agreement.
const HEAL_ROUNDS: u32 = 120;
/// From a fault to the VM's running again, at most: notice, T_fence, a promotion, a start.
const FAILOVER_ROUNDS: u32 = 52;

impl Site {
    pub fn drain(&mut self) {
        while let Some(event) = self.soon.pop_front() {
            self.happen(event);
        }
    }

    /// Time goes on: what is due, the kernels, the watchdogs, the agents' ticks, the guest.
    pub fn next_round(&mut self) {
        self.round += 1;
        self.news = false;
        let round = self.round;
        let due: Vec<Event> = {
            let (due, later) = self.later.drain(..).partition(|(at, _)| *at <= round);
            self.later = later;
            let due: Vec<(u32, Event)> = due;
            due.into_iter().map(|(_, event)| event).collect()
        };
        for event in due {
            if chosen(&event) {
                self.pending.push(event);
            } else {
                self.soon.push_back(event);
                self.drain();
            }
        }
        self.kernel();
        self.drain();
        for node in 0..2 {
            self.watchdog(node);
        }
        for node in 0..2 {
            if self.mutated(crate::rules::Mutation::KeepRunning) {
                self.renew_lease(node);
            }
            self.feed(node, Input::Tick);
        }
        self.drain();
        self.write();
        self.drain();
    }

    /// One of the things on their way happens.
    pub fn deliver(&mut self, at: usize) {
        let event = self.pending.remove(at);
        self.news = true;
        self.happen(event);
        self.drain();
    }

    /// Goes on to the next state in which there is something to choose.
    pub fn run_on(&mut self, bounds: &Bounds) {
        self.drain();
        while !self.ended {
            match self.pending.len() {
                0 if self.round >= self.zero + bounds.horizon => self.finish(bounds),
                0 if self.may_break(bounds) => return,
                0 => self.next_round(),
                1 if !self.may_break(bounds) => self.deliver(0),
                _ => return,
            }
        }
    }

    /// Whether a fault may come now.
    pub fn may_break(&self, bounds: &Bounds) -> bool {
        let since = self.round - self.zero;
        let moment = !self.pending.is_empty() || self.news || since.is_multiple_of(bounds.grid);
        self.faults_left > 0 && since <= bounds.window && moment
    }

    /// The end of a behaviour. A single fault, not mended, must leave the VM running, and with a box
    /// on site HQ's silence does not count as one; with all mended, fairness (everything sent arrives,
    /// in order) brings the pair back.
    fn finish(&mut self, bounds: &Bounds) {
        self.ended = true;
        if !bounds.liveness || self.broken.any() {
            return;
        }
        if bounds.begin.is_calm() && self.grave <= 1 {
            let end = self.zero + bounds.window + FAILOVER_ROUNDS;
            while self.runs() != 1 && self.round < end {
                self.next_round();
                self.calm();
            }
            if self.runs() != 1 {
                let states = self.states();
                return self
                    .broke("liveness", format!("one fault stops the VM for good: {states}"));
            }
        }
        self.mend_all();
        let end = self.round + HEAL_ROUNDS;
        while !self.healthy(self.home_tie()) {
            if self.round >= end {
                let states = self.states();
                return self.broke("liveness", format!("no healthy pair: {states}"));
            }
            self.next_round();
            self.calm();
        }
    }

    /// One core takes an input; its orders are carried out. A core that stops itself is a broken
    /// promise, too.
    pub fn feed(&mut self, node: usize, input: Input) {
        let now = agent_core::Millis(self.now());
        if !self.nodes[node].up {
            return;
        }
        let Some(core) = self.nodes[node].core.as_mut() else { return };
        self.steps += 1;
        let shown = self.trace.is_some() && !matches!(input, Input::Tick);
        let shown = shown.then(|| format!("{} <- {input:?}", slot(node)));
        let core = Arc::make_mut(core);
        let step = std::panic::AssertUnwindSafe(|| core.step(now, input));
        let effects = std::panic::catch_unwind(step);
        if let Some(shown) = shown {
            self.note(|_| shown);
        }
        let Ok(effects) = effects else {
            self.broke("core", format!("the core of {} stopped itself", slot(node)));
            return self.kill_agent(node, false, Some(2));
        };
        for effect in effects {
            self.carry_out(node, effect);
        }
        self.check_epoch(node);
    }

    fn happen(&mut self, event: Event) {
        if self.trace.is_some() && chosen(&event) {
            self.note(|_| format!("   {}", shown(&event)));
        }
        match event {
            Event::Message { to, paths, boot, seq, body } => {
                for path in Path::BOTH {
                    if paths[usize::from(path == Path::Lan)] {
                        let body = Arc::clone(&body);
                        self.feed(to, Input::PeerHeard { path, boot, seq, body });
                    }
                }
            }
            Event::Ask { from, at, agent, swap } => self.swap(from, at, agent, &swap),
            Event::Answer { to, agent, answer, .. } => {
                if self.nodes[to].agent == agent {
                    self.feed(to, Input::WitnessAnswered(*answer));
                }
            }
            Event::Read { from, at, agent, request_id } => self.read(from, at, agent, request_id),
            Event::Unreachable { to, agent, request_id } => {
                if self.nodes[to].agent == agent {
                    self.feed(to, Input::WitnessUnreachable { request_id });
                }
            }
            Event::Persisted { node, agent, token, state } => {
                if self.nodes[node].agent == agent {
                    self.persisted(node, token, state);
                }
            }
            Event::HelperAnswer { node, agent, id, code } => {
                if self.nodes[node].agent == agent {
                    self.answer_helper(node, id, code);
                }
            }
            Event::Own { node, agent, work } => {
                if self.nodes[node].agent == agent {
                    self.work(node, work);
                }
            }
            Event::PowerOn { node, power } => {
                if self.nodes[node].power == power {
                    self.power_on(node);
                }
            }
            Event::AgentStart { node, power } => {
                if self.nodes[node].power == power {
                    self.start_agent(node);
                }
            }
            Event::WanOn => self.hq.mend_paths(),
            Event::BoxOn => self.witness(WitnessAt::Local).up = true,
            Event::BoxUnset { node } => self.box_set(node, false),
            Event::CutOver => self.cut_over(),
        }
    }

    fn persisted(&mut self, node: usize, token: u64, state: Option<Box<agent_core::DurableState>>) {
        if let Some(state) = state {
            self.store(node, *state);
        }
        let durable =
            |site: &Self| site.nodes[node].core.as_ref().map(|core| core.durable().clone());
        let old = durable(self);
        self.feed(node, Input::Persisted { token });
        let Some((old, new)) = old.zip(durable(self)) else { return };
        let here = &mut self.nodes[node];
        here.confirmed = here.confirmed.max(new.epoch);
        self.note_box(node, &old, &new);
    }

    pub fn states(&self) -> String {
        let state = |node: &crate::site::Node| {
            node.core.as_ref().map_or("down".to_owned(), |core| format!("{:?}", core.status()))
        };
        format!("A {} / B {}", state(&self.nodes[0]), state(&self.nodes[1]))
    }
}

/// Whether the checker says when it happens.
fn chosen(event: &Event) -> bool {
    matches!(
        event,
        Event::Message { .. }
            | Event::Ask { .. }
            | Event::Answer { .. }
            | Event::Persisted { .. }
            | Event::HelperAnswer { .. }
    )
}

/// An event in a line a person can read.
pub fn shown(event: &Event) -> String {
    match event {
        Event::Message { to, seq, body, .. } => format!(
            "message to {} ({seq}): {:?} epoch {} {:?} solo {}",
            slot(*to),
            body.state,
            body.epoch,
            body.in_sync,
            body.solo
        ),
        Event::Ask { from, at, swap, .. } => format!("{} asks {at:?}: {swap:?}", slot(*from)),
        Event::Answer { to, at, answer, .. } => {
            format!("{at:?} answers {}: granted {} {:?}", slot(*to), answer.granted, answer.record)
        }
        Event::Persisted { node, .. } => format!("{} has its state on disk", slot(*node)),
        Event::HelperAnswer { node, code, .. } => format!("{} helper exits {code}", slot(*node)),
        other => format!("{other:?}"),
    }
}
