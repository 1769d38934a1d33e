// SPDX-License-Identifier: Apache-2.0
//! The last act of a liveness run: a healthy pair meets one lasting fault, and must do what it
//! promises for it within the time it promises.

use crate::HEAL_MS_MAX;
use crate::bmc::Supply;
use crate::world::{Node, World, slot};
use agent_core::{Input, Tie};

/// From the loss of a server to all VMs running on the other: detection, the wait for its
/// watchdog, and the start.
pub(crate) const FAILOVER_MS_MAX: u64 = 60_000;
/// The same, confirmed by a BMC: no wait for a watchdog. (8 s for detection are added.)
const FENCED_MS_MAX: u64 = 12_000;
/// A cold start alone: the grace, then as above.
const ALONE_MS_MAX: u64 = 240_000;
/// A broken path is left within this time, and nobody goes on alone.
const SWITCH_MS_MAX: u64 = 15_000;
/// Without HQ the tie-break is on site within this time.
pub(crate) const TIE_MS_MAX: u64 = 60_000;

impl World {
    pub(crate) fn show_ending(&mut self) {
        let start = self.now;
        let node = self.rng.index(2);
        if self.has_bmc && self.bmc_rng.chance(100) {
            self.ending_fenced();
            return self.ends(start);
        }
        let endings = if self.local.fitted { 20 } else { 14 };
        match self.rng.index(endings) {
            14..=17 => self.ending_local(node),
            18.. => self.ending_local_lost(node),
            12 => self.ending_drained(node),
            13 => self.ending_drained_then_lost(node),
            11 => self.ending_declared(),
            8 => self.ending_wan_then_loss(),
            9 => self.ending_wan_then_all_cut(),
            10 => self.ending_wan_then_holder_lost(),
            0 => self.ending_loss(node),
            1 => self.ending_cold_alone(node),
            2 => self.ending_cold_staggered(node),
            3 => self.ending_path_cut(node),
            4 => self.ending_all_cut(None),
            5 => self.ending_all_cut(Some(node)),
            6 => self.ending_replication_blocked(),
            _ => self.ending_wan_then_path(node),
        }
        self.ends(start);
    }

    fn ends(&mut self, start: u64) {
        self.stats.failover_ms = self.now - start;
        let end = self.now + 10_000;
        self.until(end, |_| false);
        if !self.all_run() {
            self.missed("VMs did not stay up", 10_000);
        }
    }

    fn all_run(&self) -> bool {
        (0..self.vms.len()).all(|vm| self.running(vm) == 1)
    }

    pub(crate) fn must_run_within(&mut self, limit: u64, what: &str) {
        // The frozen side first has to notice.
        let settle = self.now + 8_000;
        self.until(settle, |_| false);
        let end = self.now + limit;
        if !self.until(end, Self::all_run) {
            self.missed(what, limit);
        }
    }

    fn must_stay_paired(&mut self, what: &str) {
        let solos = self.stats.solos;
        let end = self.now + SWITCH_MS_MAX;
        self.until(end, |_| false);
        if !self.healthy() || self.stats.solos != solos {
            self.missed(what, SWITCH_MS_MAX);
        }
    }

    pub(crate) fn missed(&mut self, what: &str, limit: u64) {
        let states = self.states();
        self.fail(format!("liveness: {what}, {limit} ms allowed: {states}"));
    }

    /// A server dies for good.
    fn ending_loss(&mut self, node: usize) {
        self.power_off(node, None);
        self.must_run_within(FAILOVER_MS_MAX, "the survivor does not run all VMs");
    }

    /// A server dies of anything but its mains, for good: its BMC confirms that it is off, and nobody
    /// waits for its watchdog.
    fn ending_fenced(&mut self) {
        let node = self.bmc_rng.index(2);
        self.power_off(node, None);
        self.nodes[node].bmc.supply = if self.bmc_rng.coin() { Supply::On } else { Supply::Off };
        self.must_run_within(FENCED_MS_MAX, "a BMC's word does not help");
    }

    /// The site loses power and only one server comes back.
    fn ending_cold_alone(&mut self, node: usize) {
        self.power_off(1 - node, None);
        self.power_off(node, Some(10_000));
        self.must_run_within(ALONE_MS_MAX, "a cold start alone does not run all VMs");
    }

    /// The site loses power and the servers come back one after the other.
    fn ending_cold_staggered(&mut self, node: usize) {
        let gap = self.rng.range(0, 150_000);
        self.power_off(node, Some(10_000));
        self.power_off(1 - node, Some(10_000 + gap));
        let end = self.now + HEAL_MS_MAX;
        self.until(self.now + 30_000 + gap, |_| false);
        if !self.until(end, Self::healthy) {
            self.missed("no pair after a staggered cold start", HEAL_MS_MAX);
        }
    }

    /// One path dies, in one direction or both.
    fn ending_path_cut(&mut self, node: usize) {
        let path = self.rng.index(2);
        self.open[path][node] = false;
        self.open[path][1 - node] = self.rng.coin();
        self.must_stay_paired("a cut path costs the pair");
    }

    /// All links between the servers die, towards one server or both ways; the WAN is there.
    fn ending_all_cut(&mut self, towards: Option<usize>) {
        for path in 0..2 {
            for from in 0..2 {
                self.open[path][from] &= towards == Some(from);
            }
        }
        self.must_run_within(FAILOVER_MS_MAX, "a full cut stops VMs for good");
    }

    /// Replication dies while the agents hear each other, and the WAN is down: settled between
    /// the two (R1).
    fn ending_replication_blocked(&mut self) {
        self.wan_to = [false; 2];
        self.wan_from = [false; 2];
        self.replication_open = false;
        self.must_run_within(FAILOVER_MS_MAX, "the pair's own agreement does not come about");
    }

    /// The WAN dies, and the pair agrees who may go on without it.
    fn tie_on_site(&mut self) -> usize {
        self.wan_to = [false; 2];
        self.wan_from = [false; 2];
        self.local.up = false;
        let end = self.now + TIE_MS_MAX;
        if !self.until(end, |world| world.holder().is_some()) {
            self.missed("the tie-break does not leave HQ", TIE_MS_MAX);
        }
        self.holder().unwrap_or(0)
    }

    /// The server both count on to go on alone.
    fn holder(&self) -> Option<usize> {
        let tie = |node: &Node| node.core.as_ref().map(|core| core.durable().tie);
        let [a, b] = [tie(&self.nodes[0]), tie(&self.nodes[1])];
        (0..2).find(|node| a == b && a == Some(Tie::Node(slot(*node))))
    }

    /// WAN down, then the server without the tie-break dies.
    fn ending_wan_then_loss(&mut self) {
        let holder = self.tie_on_site();
        self.power_off(1 - holder, None);
        self.must_run_within(FAILOVER_MS_MAX, "the holder of the tie-break does not go on");
    }

    /// WAN down, then all links between the servers.
    fn ending_wan_then_all_cut(&mut self) {
        self.tie_on_site();
        self.open = [[false; 2]; 2];
        self.must_run_within(FAILOVER_MS_MAX, "a full cut without WAN stops VMs for good");
    }

    /// WAN down, then the holder dies: the other must not go on before HQ or the holder is back,
    /// not even with an agent that has just read its state; the holder returns, and all is well.
    fn ending_wan_then_holder_lost(&mut self) {
        let holder = self.tie_on_site();
        let solos = self.stats.solos;
        self.power_off(holder, Some(90_000));
        self.agent_crash(1 - holder);
        let end = self.now + 85_000;
        self.until(end, |_| false);
        if self.stats.solos != solos {
            self.fail("R5: a server without the tie-break went on alone".to_owned());
        }
        let end = self.now + HEAL_MS_MAX;
        if !self.until(end, Self::all_run) {
            self.missed("the holder is back and VMs do not run", HEAL_MS_MAX);
        }
    }

    /// WAN down, the holder of the tie-break dies for good, and a person at the other server says
    /// so.
    fn ending_declared(&mut self) {
        let holder = self.tie_on_site();
        self.power_off(holder, None);
        let frozen = self.now + 20_000;
        self.until(frozen, |_| false);
        self.feed(1 - holder, Input::OperatorDeclares);
        self.must_run_within(FAILOVER_MS_MAX, "an operator's word does not help");
    }

    /// WAN down, then a path cut: nothing but a path switch.
    fn ending_wan_then_path(&mut self, node: usize) {
        self.wan_to = [false; 2];
        self.wan_from = [false; 2];
        self.ending_path_cut(node);
    }
}
