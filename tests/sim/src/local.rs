// SPDX-License-Identifier: Apache-2.0
//! A witness on site, in every other seed: the box, what befalls it, and the last acts it decides.

use crate::endings::{FAILOVER_MS_MAX, TIE_MS_MAX};
use crate::world::{Event, Healing, Memory, World, slot};
use agent_core::{Input, Tie, WitnessAt};
use provisioning_protocol::witness::{WitnessState, WitnessSwap};

/// The box.
#[derive(Debug, Clone)]
pub(crate) struct LocalBox {
    /// Whether this site has one at all.
    pub fitted: bool,
    /// Whether each server has been told of it.
    pub set: [bool; 2],
    pub state: WitnessState,
    pub backup: WitnessState,
    pub up: bool,
    /// Whether what a server sends reaches it, and its answers the server.
    pub to: [bool; 2],
    pub from: [bool; 2],
    /// Power is lost at the next swap, with the line whole on disk or torn.
    pub dies_at_write: Option<bool>,
}

impl LocalBox {
    pub fn new(seed: u64) -> Self {
        let state = WitnessState::new(seed ^ 0x5173);
        let fitted = !seed.is_multiple_of(2);
        Self {
            fitted,
            set: [fitted; 2],
            backup: state.clone(),
            state,
            up: true,
            to: [true; 2],
            from: [true; 2],
            dies_at_write: None,
        }
    }

    pub fn heal(&mut self) {
        self.up = true;
        self.to = [true; 2];
        self.from = [true; 2];
        self.set = [self.fitted; 2];
        self.dies_at_write = None;
    }
}

impl World {
    pub(crate) fn reaches(&self, at: WitnessAt, from: usize) -> bool {
        match at {
            WitnessAt::Hq => self.wan_to[from],
            WitnessAt::Local => self.local.fitted && self.local.set[from] && self.local.to[from],
        }
    }

    pub(crate) fn answers(&self, at: WitnessAt, to: usize) -> bool {
        match at {
            WitnessAt::Hq => self.wan_from[to],
            WitnessAt::Local => self.local.from[to],
        }
    }

    /// A swap that meets a power loss is answered by nobody; its line is on disk or torn.
    pub(crate) fn box_dies(&mut self, swap: Option<&WitnessSwap>) -> bool {
        let Some((landed, swap)) = self.local.dies_at_write.zip(swap) else { return false };
        self.local.dies_at_write = None;
        if landed {
            self.local.state.swap(swap);
        }
        self.box_off();
        true
    }

    fn box_off(&mut self) {
        let time = self.cut_time();
        self.note(|_| format!("** box on site off for {time} ms"));
        self.local.up = false;
        self.at(time, Event::Heal(Healing::Local));
    }

    pub(crate) fn break_local(&mut self, node: usize) {
        match self.rng.range(0, 10) {
            0..=2 => self.box_off(),
            3 | 4 => self.local.dies_at_write = Some(self.rng.coin()),
            5 => {
                self.note(|_| "** box on site backed up".to_owned());
                self.local.backup = self.local.state.clone();
            }
            6 => self.box_restored(),
            7 => self.box_told(node),
            _ => self.cut_box(node),
        }
    }

    fn cut_box(&mut self, node: usize) {
        let (both, asked, time) = (self.rng.coin(), self.rng.coin(), self.cut_time());
        for node in (0..2).filter(|other| both || *other == node) {
            self.note(|_| format!("** box on site cut from {} for {time} ms", slot(node)));
            self.local.to[node] &= !asked;
            self.local.from[node] = false;
        }
        self.at(time, Event::Heal(Healing::LocalPath));
    }

    /// Disk lost, or an older copy put back: both come with another incarnation.
    fn box_restored(&mut self) {
        if !self.may_forget(Memory::Witness) {
            return;
        }
        let incarnation = self.rng.next();
        self.local.state = if self.rng.coin() {
            WitnessState::new(incarnation)
        } else {
            let mut state = self.local.backup.clone();
            (state.record.incarnation, state.last) = (incarnation, None);
            state
        };
        self.note(|w| format!("** box on site restored: {:?}", w.local.state.record));
    }

    /// An operator takes the box out of service, or into it; one server hears of it first.
    fn box_told(&mut self, node: usize) {
        let set = !self.local.set[node];
        self.note(|_| format!("** {} is told of the box on site: {set}", slot(node)));
        self.local.set[node] = set;
        self.feed(node, Input::LocalWitness(set));
        let time = self.cut_time();
        self.at(time, Event::Heal(Healing::LocalSet));
    }

    pub(crate) fn tell_box(&mut self) {
        for node in 0..2 {
            self.feed(node, Input::LocalWitness(self.local.set[node]));
        }
    }

    fn tie_is(&self, tie: Tie) -> bool {
        let has = |core: &agent_core::Core| core.durable().tie == tie;
        self.nodes.iter().all(|node| node.core.as_ref().is_some_and(has))
    }

    fn tie_must_come(&mut self, tie: Tie, what: &str) {
        let end = self.now + TIE_MS_MAX;
        if !self.until(end, |world| world.tie_is(tie)) {
            self.missed(what, TIE_MS_MAX);
        }
        // The new witness must have the pair on record before anyone may go on alone.
        let settle = self.now + 15_000;
        self.until(settle, |_| false);
    }

    /// With a witness on site the WAN does not matter: a server dies, or all links between them.
    pub(crate) fn ending_local(&mut self, node: usize) {
        self.tie_must_come(Tie::Local, "the tie-break does not go to the witness on site");
        self.wan_to = [false; 2];
        self.wan_from = [false; 2];
        let early = self.rng.coin();
        if !early {
            let later = self.now + 40_000;
            self.until(later, |_| false);
        }
        match self.rng.index(3) {
            0 => self.open = [[false; 2]; 2],
            1 => self.power_off(node, None),
            _ => {
                // The box restarts right then.
                self.power_off(node, None);
                self.box_off();
                self.local.up = true;
            }
        }
        self.must_run_within(FAILOVER_MS_MAX, "the witness on site does not help without WAN");
    }

    /// The box dies, HQ takes its place; then a server dies.
    pub(crate) fn ending_local_lost(&mut self, node: usize) {
        self.tie_must_come(Tie::Local, "the tie-break does not go to the witness on site");
        self.local.up = false;
        self.tie_must_come(Tie::Hq, "the tie-break does not leave a dead witness on site");
        self.power_off(node, None);
        self.must_run_within(FAILOVER_MS_MAX, "HQ does not stand in for the witness on site");
    }
}
