// SPDX-License-Identifier: Apache-2.0
//! The BMC of each server: a small computer of its own, fed with its server and reached over a network
//! of its own. It takes its time, may be out of reach, and dies with the mains of its server. One that
//! lies is a mutation: nothing can be promised then but that the data is safe.

use crate::opts::Mutation;
use crate::rng::Rng;
use crate::world::{Event, Healing, Node, Shell, World, slot};
use agent_core::Input;
use provisioning_protocol::peer::PeerState;

/// Apart from the seed's other chances, so that a site without BMCs is what it was before.
const SALT: u64 = 0x0b3c_0b3c_0b3c_0b3c;
/// A shell gives up after this.
const LIMIT_MS: u64 = 10_000;

/// What feeds a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supply {
    /// On, or being reset.
    On,
    /// Off, and its BMC lives.
    Off,
    /// No mains: no BMC either.
    Lost,
}

/// One server's BMC.
#[derive(Debug, Clone)]
pub(crate) struct Bmc {
    pub supply: Supply,
    /// Whether the other server reaches it.
    pub open: bool,
    /// Orders called off are those of an earlier number.
    pub orders: u32,
}

impl Bmc {
    pub fn new() -> Self {
        Self { supply: Supply::On, open: true, orders: 0 }
    }
}

/// A step of the shell's work on the other server's BMC.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Off { id: u64, orders: u32 },
    Read { id: u64, orders: u32, twice: bool, until: u64 },
    On,
}

/// Chances of BMCs only.
pub(crate) fn bmc_rng(seed: u64) -> Rng {
    Rng::new(seed ^ SALT)
}

impl World {
    fn bmc_later(&mut self, node: usize, low: u64, high: u64, work: Work) {
        let delay = self.bmc_rng.range(low, high);
        let agent = self.nodes[node].agent;
        self.at(delay, Event::Shell { node, agent, what: Shell::Bmc(work) });
    }

    pub fn fence_peer(&mut self, node: usize, id: u64) {
        self.nodes[node].bmc.orders += 1;
        let orders = self.nodes[node].bmc.orders;
        self.bmc_later(node, 100, 1_500, Work::Off { id, orders });
    }

    pub fn spare_peer(&mut self, node: usize) {
        self.nodes[node].bmc.orders += 1;
    }

    pub fn power_on_peer(&mut self, node: usize) {
        self.bmc_later(node, 100, 1_500, Work::On);
    }

    fn reached(&self, peer: usize) -> bool {
        let bmc = &self.nodes[peer].bmc;
        bmc.open && bmc.supply != Supply::Lost
    }

    pub fn bmc_work(&mut self, node: usize, work: Work) {
        let peer = 1 - node;
        match work {
            Work::Off { orders, .. } | Work::Read { orders, .. }
                if orders != self.nodes[node].bmc.orders => {}
            Work::Off { id, orders } => {
                let until = self.now + LIMIT_MS;
                if self.reached(peer) {
                    self.switch_off(peer);
                }
                self.bmc_later(node, 100, 4_000, Work::Read { id, orders, twice: false, until });
            }
            Work::Read { id, orders, twice, until } => {
                let off = self.reached(peer) && self.nodes[peer].bmc.supply == Supply::Off;
                let off = off || self.mutated(Mutation::BmcLies);
                if (twice && off) || self.now >= until {
                    self.stats.fenced += u64::from(off);
                    return self.feed(node, Input::BmcAnswered { id, off });
                }
                self.bmc_later(node, 500, 1_500, Work::Read { id, orders, twice: off, until });
            }
            Work::On if self.reached(peer) => self.switch_on(peer),
            Work::On => {}
        }
    }

    /// Forced off, whatever it does; it stays off.
    fn switch_off(&mut self, node: usize) {
        if self.nodes[node].bmc.supply == Supply::Off || self.mutated(Mutation::BmcLies) {
            return;
        }
        self.note(|_| format!("** {} is switched off by its BMC", slot(node)));
        self.power_off(node, None);
        // Also one that was on its way up.
        self.nodes[node].power += 1;
        self.nodes[node].bmc.supply = Supply::Off;
    }

    fn switch_on(&mut self, node: usize) {
        if self.nodes[node].bmc.supply == Supply::Off {
            self.note(|_| format!("** {} is switched on by its BMC", slot(node)));
            self.nodes[node].bmc.supply = Supply::On;
            let power = self.nodes[node].power;
            let after = self.bmc_rng.range(4_000, 20_000);
            self.at(after, Event::Boot { node, power });
        }
    }

    /// A crash with or without the mains.
    pub fn crash_supply(&mut self, node: usize) {
        let all = [Supply::Lost, Supply::Lost, Supply::Off, Supply::On];
        self.nodes[node].bmc.supply = all[self.rng.index(all.len())];
    }

    /// Now and then a BMC cannot be reached, whatever else breaks.
    pub fn bmc_fault(&mut self) {
        if self.has_bmc && self.rng.chance(150) {
            let node = self.rng.index(2);
            let time = self.rng.range(1_000, 120_000);
            self.note(|_| format!("** BMC of {} out of reach for {time} ms", slot(node)));
            self.nodes[node].bmc.open = false;
            self.at(time, Event::Heal(Healing::Bmc { node }));
        }
    }

    /// Rule R7 as it was first written: with no tie-break in reach, a confirmed power-off is a right
    /// to go on. The server that was shot may have gone on alone before.
    pub fn bmc_as_a_tie(&mut self, node: usize) {
        let peer = 1 - node;
        let frozen = |node: &Node| {
            node.core.as_ref().is_some_and(|core| core.status().state == PeerState::Suspect)
        };
        if self.nodes[node].alive()
            && frozen(&self.nodes[node])
            && !self.wan_from[node]
            && self.reached(peer)
            && self.bmc_rng.chance(20)
        {
            self.switch_off(peer);
            self.feed(node, Input::OperatorDeclares);
        }
    }

    pub fn tell_bmc(&mut self, node: usize) {
        let has = self.has_bmc;
        self.feed(node, Input::BmcConfigured(has));
    }
}

/// Most sites have them.
pub(crate) fn site_has_bmc(rng: &mut Rng, mutation: Option<Mutation>) -> bool {
    rng.chance(600) || matches!(mutation, Some(Mutation::BmcLies | Mutation::BmcAsTie))
}
