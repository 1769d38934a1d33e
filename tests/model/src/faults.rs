// SPDX-License-Identifier: Apache-2.0
//! What may break, and when.

use crate::rules::Bounds;
use crate::site::{Event, Site, slot};
use crate::witness::Witness;
use agent_core::{Input, WitnessAt};

/// A short loss: DRBD notices, and it is over before anybody's lease is.
const SHORT: u32 = 8;
/// A witness that is away for so long loses the tie-break, and is there again before the end.
pub const LONG: u32 = 20;
/// A crashed agent is started again.
const RESTART: u32 = 2;
/// What is late comes so many rounds later: a second, which is news from before five heartbeats.
const LATE: u32 = 2;

/// One fault. A number is a server, or the place of what is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Power lost, for good or for a while; a write under way reached the disk or not.
    Power { node: usize, landed: bool, for_good: bool },
    /// The agent crashes; as above.
    Agent { node: usize, landed: bool, for_good: bool },
    /// Both paths are cut; one side notices first.
    Cut { early: usize, for_good: bool },
    /// What one server sends to the other is lost.
    CutFrom(usize),
    /// A server is cut off from its peer and from every witness.
    Isolate(usize),
    /// DRBD's packets are lost; the agents hear each other.
    Replication,
    /// The cable is cut.
    Cable,
    /// HQ cannot be reached, for good or for a while.
    Wan { for_good: bool },
    /// A witness hears, and its answers to this server are lost.
    Answers(WitnessAt, usize),
    /// A witness comes back with the record of before the first fault.
    Rollback(WitnessAt),
    /// The box loses power, for good or for a while; to both servers it is as if cut off.
    BoxPower { for_good: bool },
    /// It does so over the swap at this place, which is on its disk or torn.
    BoxDies { at: usize, landed: bool, for_good: bool },
    /// The box cannot be reached by this server.
    BoxCut(usize),
    /// The box is taken out of service; this server hears of it first.
    BoxUnset(usize),
    /// All that is cut or off is mended, earlier than it would be.
    Mend,
    /// An operator at this server says that the other is off. It is, and it did not go on alone
    /// before: then its last writes would be given up, which no rule can know of.
    Declare(usize),
    /// Something on its way is lost,
    Lose(usize),
    /// comes twice, the second time late,
    Repeat(usize),
    /// or comes late.
    Delay(usize),
}

/// One step of a behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Time goes on.
    GoOn,
    /// What is on its way at this place happens.
    Deliver(usize),
    /// Something breaks.
    Break(Fault),
}

impl Site {
    /// What may come next.
    pub fn steps(&self, bounds: &Bounds, steps: &mut Vec<Step>) {
        if self.ended {
            return;
        }
        if self.may_break(bounds) {
            let faults = if self.pending.is_empty() { self.faults() } else { self.narrow() };
            steps.extend(faults.into_iter().map(Step::Break));
        }
        // A healthy pair looks the same at any time.
        if self.faults_left == bounds.faults && bounds.begin.is_calm() {
            return;
        }
        match self.pending.len() {
            0 => steps.push(Step::GoOn),
            many => {
                let next = (0..many).filter(|at| self.is_next(*at));
                steps.extend(next.map(Step::Deliver));
            }
        }
    }

    /// Datagrams of one server stay in order unless one is late: the core drops all but the newest.
    fn is_next(&self, at: usize) -> bool {
        let Event::Message { to: mine, .. } = &self.pending[at] else { return true };
        let same = |event: &Event| matches!(event, Event::Message { to, .. } if to == mine);
        !self.pending[..at].iter().any(same)
    }

    /// Takes a step, and goes on to where there is something to choose again.
    pub fn take(&mut self, step: Step, bounds: &Bounds) {
        if self.trace.is_some() && step != Step::GoOn {
            self.note(|_| format!("== {step:?}"));
        }
        match step {
            Step::GoOn => self.next_round(),
            Step::Deliver(at) => self.deliver(at),
            Step::Break(fault) => {
                self.faults_left -= 1;
                self.grave +=
                    u8::from(!matches!(fault, Fault::Wan { .. }) || self.on_site.is_none());
                self.cause(fault);
                if self.pending.is_empty() {
                    self.drain();
                    self.next_round();
                }
            }
        }
        self.run_on(bounds);
    }

    /// Between rounds: everything around the servers.
    fn faults(&self) -> Vec<Fault> {
        let mut all = vec![];
        for node in 0..2 {
            if self.nodes[node].up {
                all.extend([false, true].map(|for_good| Fault::Power {
                    node,
                    landed: false,
                    for_good,
                }));
            } else if self.nodes[1 - node].core.is_some() && !self.went_alone(node) {
                all.push(Fault::Declare(1 - node));
            }
            if self.nodes[node].core.is_some() {
                all.extend([false, true].map(|for_good| Fault::Agent {
                    node,
                    landed: false,
                    for_good,
                }));
            }
        }
        let open = self.open == [[true; 2]; 2] && self.replication;
        let whole = open && self.nodes.iter().all(|node| node.up);
        if whole {
            for node in 0..2 {
                all.extend([false, true].map(|for_good| Fault::Cut { early: node, for_good }));
                all.extend([Fault::CutFrom(node), Fault::Isolate(node)]);
            }
            all.extend([Fault::Replication, Fault::Cable]);
        }
        if self.hq.whole() {
            all.extend([false, true].map(|for_good| Fault::Wan { for_good }));
        }
        let on_site = self.on_site.as_ref();
        let witnesses =
            [Some(&self.hq), on_site].into_iter().zip([WitnessAt::Hq, WitnessAt::Local]);
        for (witness, at) in witnesses.filter_map(|(witness, at)| Some((witness?, at))) {
            if witness.whole() {
                all.extend([Fault::Answers(at, 0), Fault::Answers(at, 1)]);
            }
            all.push(Fault::Rollback(at));
        }
        if on_site.is_some_and(Witness::whole) {
            all.extend([false, true].map(|for_good| Fault::BoxPower { for_good }));
            all.extend([0, 1].map(Fault::BoxCut));
            all.extend([0, 1].map(Fault::BoxUnset));
        }
        if !(whole && self.hq.whole() && on_site.is_none_or(Witness::whole)) {
            all.push(Fault::Mend);
        }
        all
    }

    fn went_alone(&self, node: usize) -> bool {
        self.nodes[node].disk.as_ref().is_some_and(|disk| disk.solo)
    }

    /// Between two things on their way: a crash with a write under way, or between what is on disk
    /// and what rests on it; and what the net does.
    fn narrow(&self) -> Vec<Fault> {
        let mut all = vec![];
        for node in 0..2 {
            let writes = self
                .pending
                .iter()
                .any(|event| matches!(event, Event::Persisted { node: it, .. } if *it == node));
            let acts = self
                .pending
                .iter()
                .any(|event| matches!(event, Event::HelperAnswer { node: it, .. } if *it == node));
            let landed: &[bool] = match (writes, acts) {
                (true, _) => &[false, true],
                (false, true) => &[false],
                (false, false) => &[],
            };
            for landed in landed.iter().copied() {
                all.push(Fault::Power { node, landed, for_good: false });
                all.push(Fault::Power { node, landed, for_good: true });
                all.push(Fault::Agent { node, landed, for_good: false });
            }
        }
        for (at, event) in self.pending.iter().enumerate() {
            if matches!(event, Event::Ask { at: WitnessAt::Local, .. }) {
                for landed in [false, true] {
                    let dies = |for_good| Fault::BoxDies { at, landed, for_good };
                    all.extend([false, true].map(dies));
                }
            }
            match event {
                Event::Message { .. } | Event::Ask { .. } | Event::Answer { .. } => {
                    all.extend([Fault::Lose(at), Fault::Repeat(at), Fault::Delay(at)]);
                }
                Event::Persisted { .. } => all.push(Fault::Delay(at)),
                _ => {}
            }
        }
        all
    }

    fn cause(&mut self, fault: Fault) {
        match fault {
            Fault::Power { node, landed, for_good } => {
                self.power_off(node, landed, (!for_good).then_some(SHORT));
            }
            Fault::Agent { node, landed, for_good } => {
                self.kill_agent(node, landed, (!for_good).then_some(RESTART));
            }
            Fault::Cut { early, for_good } => {
                self.early = early;
                self.open = [[false; 2]; 2];
                if !for_good {
                    self.later(SHORT, Event::CutOver);
                }
            }
            Fault::CutFrom(from) => {
                self.early = 1 - from;
                self.open.iter_mut().for_each(|path| path[from] = false);
            }
            Fault::Isolate(node) => {
                self.early = 1 - node;
                self.open = [[false; 2]; 2];
                self.hq.cut(node);
                if let Some(local) = &mut self.on_site {
                    local.cut(node);
                }
            }
            Fault::Replication => self.replication = false,
            Fault::Cable => self.open[0] = [false; 2],
            Fault::Wan { for_good } => {
                self.cut_hq();
                if !for_good {
                    self.later(LONG, Event::WanOn);
                }
            }
            Fault::Answers(at, node) => self.witness(at).from[node] = false,
            Fault::Rollback(at) => self.roll_back(at),
            Fault::BoxPower { for_good } => self.box_off(for_good),
            Fault::BoxDies { at, landed, for_good } => self.box_dies(at, landed, for_good),
            Fault::BoxCut(node) => self.witness(WitnessAt::Local).cut(node),
            Fault::BoxUnset(node) => {
                self.box_set(node, false);
                self.later(LATE, Event::BoxUnset { node: 1 - node });
            }
            Fault::Mend => self.mend_all(),
            Fault::Declare(node) => self.feed(node, Input::OperatorDeclares),
            Fault::Lose(at) => drop(self.pending.remove(at)),
            Fault::Repeat(at) => {
                let event = self.pending[at].clone();
                self.later(LATE, event);
                self.deliver(at);
            }
            Fault::Delay(at) => {
                let event = self.pending.remove(at);
                self.later(LATE, event);
            }
        }
    }

    pub fn cut_hq(&mut self) {
        (0..2).for_each(|node| self.hq.cut(node));
    }

    pub fn cut_over(&mut self) {
        self.note(|_| "** the paths are whole".into());
        self.open = [[true; 2]; 2];
    }

    pub fn mend_all(&mut self) {
        self.cut_over();
        self.replication = true;
        self.hq.mend_paths();
        self.mend_box();
        for node in 0..2 {
            let power = self.nodes[node].power;
            if !self.nodes[node].up {
                self.later(1, Event::PowerOn { node, power });
            } else if self.nodes[node].core.is_none() {
                self.note(|_| format!("** {} gets a new agent", slot(node)));
                self.later(1, Event::AgentStart { node, power });
            }
        }
    }
}
