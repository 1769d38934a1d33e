// SPDX-License-Identifier: Apache-2.0
//! Orders of HQ about where VMs run: servers are drained and returned to service while all else
//! goes wrong, and each server hears of it when it can.

use crate::world::{Event, World, slot};
use agent_core::{Input, Placement, VmRun};

/// A drained server is empty within this time for each VM, if the pair is well.
const MOVE_MS_MAX: u64 = 15_000;
/// From the loss of a server to all VMs running on the other one.
const FAILOVER_MS_MAX: u64 = 60_000;

impl World {
    /// In half of the runs someone gives orders.
    pub fn first_order(&mut self) {
        if self.orders.coin() {
            let after = self.orders.range(15_000, 60_000);
            self.at(after, Event::Order);
        }
    }

    pub fn order_placement(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.orders.range(2_000, 60_000);
        self.at(next, Event::Order);
        let drained = [None, Some(slot(0)), Some(slot(1))][self.orders.index(3)];
        let rebalance = self.orders.chance(700);
        self.place(Placement { drained, rebalance });
    }

    pub fn place(&mut self, placement: Placement) {
        self.note(|_| format!("** HQ orders {placement:?}"));
        self.placement = placement;
        for node in 0..2 {
            let (after, power) = (self.orders.range(10, 3_000), self.nodes[node].power);
            self.at(after, Event::Ordered { node, power, placement });
        }
    }

    /// An order reaches a server, later if it cannot now, or never if a newer one exists.
    pub fn hear_order(&mut self, node: usize, power: u32, placement: Placement) {
        if self.placement != placement {
            return;
        }
        let here = &self.nodes[node];
        let hears = here.alive() && here.core.is_some() && self.wan_to[node] && self.wan_from[node];
        if !hears || here.power != power {
            let power = here.power;
            return self.at(1_000, Event::Ordered { node, power, placement });
        }
        self.nodes[node].placement = placement;
        self.feed(node, Input::Placement(placement));
    }

    fn empty(&self, node: usize) -> bool {
        self.nodes[node].runs.iter().all(|run| *run != VmRun::Running)
    }

    /// A healthy pair: one server is drained, then the other one, then neither.
    pub fn ending_drained(&mut self, node: usize) {
        let count = u64::try_from(self.vms.len()).expect("few");
        for drained in [node, 1 - node] {
            self.drain(drained, count * MOVE_MS_MAX);
        }
        self.place(Placement { drained: None, rebalance: true });
        let end = self.now + crate::shell::REBALANCE_MS + count * MOVE_MS_MAX;
        let homes = |world: &Self| {
            let runs = |vm: usize, node: usize| world.nodes[node].runs[vm] == VmRun::Running;
            (0..world.vms.len())
                .all(|vm| (0..2).all(|n| runs(vm, n) == (world.homes[vm] == slot(n))))
        };
        if !self.until(end, homes) {
            self.missed("VMs did not go home", end);
        }
    }

    fn drain(&mut self, node: usize, limit: u64) {
        self.place(Placement { drained: Some(slot(node)), rebalance: true });
        let end = self.now + limit;
        if !self.until(end, |world| world.empty(node) && world.healthy()) {
            self.missed("a drained server is not empty", limit);
        }
    }

    /// A server is lost, or the link, at some point of a drain.
    pub fn ending_drained_then_lost(&mut self, node: usize) {
        self.place(Placement { drained: Some(slot(node)), rebalance: true });
        let wait = self.now + self.rng.range(10, 12_000);
        self.until(wait, |_| false);
        let lost = self.rng.index(2);
        if self.rng.coin() {
            self.power_off(lost, None);
        } else {
            self.open = [[false; 2]; 2];
        }
        self.must_run_within(FAILOVER_MS_MAX, "a loss during a drain stops VMs for good");
    }
}
