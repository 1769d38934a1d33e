// SPDX-License-Identifier: Apache-2.0
//! How a site goes on: rounds of time, and within a round whatever is on its way, in any order.

use crate::rules::Bounds;
use crate::site::{Event, Site, slot};
use agent_core::Input;
use provisioning_protocol::peer::Path;
use std::sync::Arc;

/// From a healed site to a healthy pair, at most: a lease that still runs out, the graces of a
/// cold start, a resync, and the rounds of agreement.
const HEAL_ROUNDS: u32 = 120;
/// A site that is not calm after so many rounds is broken.
const FORM_ROUNDS: u32 = 120;

impl Site {
    /// Both servers are switched on for the first time, with volumes just made.
    pub fn switch_on(&mut self) {
        (0..2).for_each(|node| self.power_on(node));
        self.make_volumes();
        self.drain();
    }

    /// They become a healthy pair.
    pub fn form(&mut self) {
        self.calm();
        let end = self.round + FORM_ROUNDS;
        let mut well = 0;
        while well < 40 {
            assert!(self.round < end, "no healthy pair to begin with: {}", self.states());
            self.next_round();
            self.calm();
            let told = (0..2).all(|node| {
                let disk = self.nodes[node].disk.as_ref();
                disk.is_some_and(|disk| disk.last_seen.is_some() && disk.peer_watchdog)
            });
            well = if self.healthy() && told { well + 1 } else { 0 };
        }
        for place in &mut self.witnesses {
            place.backup = place.state.clone();
        }
        self.zero = self.round;
    }

    /// Delivers what is on its way in the order it was sent.
    fn calm(&mut self) {
        self.drain();
        while !self.pending.is_empty() {
            self.deliver(0);
        }
    }

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

    /// The end of a behaviour. A single fault, not mended, must leave the VM running; with all mended,
    /// fairness (everything sent arrives, in order) brings the pair back.
    fn finish(&mut self, bounds: &Bounds) {
        self.ended = true;
        if !bounds.liveness || self.broken.any() {
            return;
        }
        if bounds.faults == 1 && !bounds.fresh && self.runs() != 1 {
            let states = self.states();
            return self.broke("liveness", format!("one fault stops the VM for good: {states}"));
        }
        self.mend_all();
        let end = self.round + HEAL_ROUNDS;
        while !self.healthy() {
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
            Event::Answer { to, agent, answer } => {
                if self.nodes[to].agent == agent {
                    self.feed(to, Input::WitnessAnswered(*answer));
                }
            }
            Event::Read { from, at, agent, request_id } => {
                self.read(from, at, agent, request_id);
            }
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
            Event::Mend => self.mend_links(),
        }
    }

    fn persisted(&mut self, node: usize, token: u64, state: Option<Box<agent_core::DurableState>>) {
        if let Some(state) = state {
            self.store(node, *state);
        }
        self.feed(node, Input::Persisted { token });
        let here = &mut self.nodes[node];
        if let Some(core) = &here.core {
            here.confirmed = here.confirmed.max(core.durable().epoch);
        }
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
        Event::Ask { from, at, swap, .. } => format!("{} asks at {at:?}: {swap:?}", slot(*from)),
        Event::Answer { to, answer, .. } => {
            format!("answer to {}: granted {} {:?}", slot(*to), answer.granted, answer.record)
        }
        Event::Persisted { node, .. } => format!("{} has its state on disk", slot(*node)),
        Event::HelperAnswer { node, code, .. } => format!("{} helper exits {code}", slot(*node)),
        other => format!("{other:?}"),
    }
}
