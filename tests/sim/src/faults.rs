// SPDX-License-Identifier: Apache-2.0
//! What breaks, and when it is mended.

use crate::opts::Mode;
use crate::rng::Rng;
use crate::world::{Event, Healing, Memory, World, slot};
use provisioning_protocol::ids::Epoch;

impl World {
    /// Breaks one thing and plans the next. Each fault draws from a generator of its own, so that
    /// one that is left out does not change what the others are.
    pub fn fault(&mut self) {
        if self.quiet {
            return;
        }
        let number = self.planned;
        self.planned += 1;
        let own = Rng::new(self.seed.wrapping_add(u64::from(number) << 40));
        let rest = std::mem::replace(&mut self.rng, own);
        let gap = if self.rng.chance(400) {
            self.rng.range(50, 3_000)
        } else {
            self.rng.range(3_000, 60_000)
        };
        self.at(gap, Event::Fault);
        if !self.less.faults.contains(&number) {
            self.caused.push(number);
            self.stats.faults += 1;
            self.break_something();
            self.bmc_fault();
        }
        self.rng = rest;
    }

    fn break_something(&mut self) {
        let node = self.rng.index(2);
        if self.local.fitted && self.rng.chance(150) {
            return self.break_local(node);
        }
        match self.rng.range(0, 100) {
            0..=17 => self.crash(node),
            18..=19 => self.blackout(),
            20..=29 => self.agent_crash(node),
            30..=33 => self.hang(node),
            34..=36 => self.stop_agent(node),
            37..=58 => self.cut_path(),
            59..=66 => self.cut_all(),
            67..=70 => self.isolate(node),
            71..=82 => self.cut_wan(),
            83..=86 => self.witness_down(),
            87..=88 => self.witness_restored(),
            89..=91 => self.slow_disk(node),
            92..=93 => self.no_watchdog(node),
            94 => self.lose_state(node),
            95 => self.backup_witness(),
            96..=97 => self.block_replication(),
            _ => self.guest_crash(node),
        }
    }

    fn down_time(&mut self) -> u64 {
        match self.rng.range(0, 4) {
            0 => self.rng.range(1_000, 8_000),
            1 | 2 => self.rng.range(8_000, 60_000),
            _ => self.rng.range(60_000, 260_000),
        }
    }

    pub fn cut_time(&mut self) -> u64 {
        match self.rng.range(0, 4) {
            0 => self.rng.range(100, 2_500),
            1 | 2 => self.rng.range(2_500, 20_000),
            _ => self.rng.range(20_000, 120_000),
        }
    }

    fn crash(&mut self, node: usize) {
        let after = self.down_time();
        self.power_off(node, Some(after));
        self.crash_supply(node);
    }

    fn blackout(&mut self) {
        for node in 0..2 {
            self.crash(node);
        }
    }

    pub fn agent_crash(&mut self, node: usize) {
        let slow = self.rng.chance(200);
        let after = if slow { self.rng.range(2_000, 30_000) } else { self.rng.range(300, 2_000) };
        self.agent_crash_for(node, after);
    }

    pub fn agent_crash_for(&mut self, node: usize, time: u64) {
        if self.nodes[node].alive() && self.nodes[node].core.is_some() {
            self.kill_agent(node);
            let power = self.nodes[node].power;
            self.at(time, Event::AgentStart { node, power });
        }
    }

    fn hang(&mut self, node: usize) {
        let long = self.rng.range(500, 40_000);
        self.hang_for(node, long);
    }

    pub fn hang_for(&mut self, node: usize, long: u64) {
        if !self.nodes[node].alive() {
            return;
        }
        self.note(|_| format!("** {} hangs", slot(node)));
        // The hardware watchdog counts on: an armed one ends a long hang by a reset.
        self.nodes[node].hung = true;
        let power = self.nodes[node].power;
        self.at(long, Event::Wake { node, power });
    }

    fn stop_agent(&mut self, node: usize) {
        let long = self.rng.range(500, 20_000);
        self.stop_agent_for(node, long);
    }

    pub fn stop_agent_for(&mut self, node: usize, long: u64) {
        if !self.nodes[node].alive() || self.nodes[node].core.is_none() {
            return;
        }
        self.note(|_| format!("** {} agent stopped", slot(node)));
        self.nodes[node].backlog.get_or_insert_default();
        let agent = self.nodes[node].agent;
        self.at(long, Event::Continue { node, agent });
    }

    fn cut_path(&mut self) {
        let path = self.rng.index(2);
        let both = self.rng.chance(650);
        let one = self.rng.index(2);
        let time = self.cut_time();
        for from in 0..2 {
            if both || from == one {
                self.cut(path, from, time);
            }
        }
    }

    /// All that a server sends to its peer.
    pub fn cut_from(&mut self, from: usize, time: u64) {
        (0..2).for_each(|path| self.cut(path, from, time));
    }

    pub fn cut(&mut self, path: usize, from: usize, time: u64) {
        let name = if path == 0 { "cable" } else { "LAN" };
        self.note(|_| format!("** {name} from {} cut for {time} ms", slot(from)));
        self.open[path][from] = false;
        self.at(time, Event::Heal(Healing::Path { path, from }));
    }

    fn cut_all(&mut self) {
        let one_way = self.rng.chance(200);
        let with_wan = self.rng.chance(150);
        let time = self.cut_time();
        let skip = self.rng.index(2);
        for path in 0..2 {
            for from in 0..2 {
                if !(one_way && from == skip) {
                    self.cut(path, from, time);
                }
            }
        }
        if with_wan {
            self.cut_wan();
        }
    }

    /// One server is cut off from everything, and lives.
    fn isolate(&mut self, node: usize) {
        let time = self.cut_time() + self.cut_time();
        self.isolate_for(node, time);
    }

    pub fn isolate_for(&mut self, node: usize, time: u64) {
        (0..2).for_each(|from| self.cut_from(from, time));
        self.cut_wan_of(node, true, time);
    }

    /// What a server asks of HQ is lost, or only the answers.
    pub fn cut_wan_of(&mut self, node: usize, asked: bool, time: u64) {
        self.note(|_| format!("** WAN of {} cut for {time} ms (asked {asked})", slot(node)));
        if asked {
            self.wan_to[node] = false;
            self.at(time, Event::Heal(Healing::Wan { node, reply: false }));
        }
        self.wan_from[node] = false;
        self.at(time, Event::Heal(Healing::Wan { node, reply: true }));
    }

    fn cut_wan(&mut self) {
        let time = self.cut_time();
        let both = self.rng.chance(700);
        let one = self.rng.index(2);
        let only_reply = self.rng.chance(250);
        for node in 0..2 {
            if both || node == one {
                self.cut_wan_of(node, !only_reply, time);
            }
        }
    }

    fn witness_down(&mut self) {
        let time = self.cut_time();
        self.note(|_| format!("** witness down for {time} ms"));
        self.witness_up = false;
        self.at(time, Event::Heal(Healing::Witness));
    }

    fn backup_witness(&mut self) {
        self.note(|_| "** witness backed up".to_owned());
        self.witness_backup = self.witness.clone();
    }

    /// HQ comes back from a backup: an older record, and it says so by a new incarnation.
    pub fn witness_restored(&mut self) {
        if !self.may_forget(Memory::Witness) {
            return;
        }
        let incarnation = self.rng.next();
        self.witness = self.witness_backup.clone();
        self.witness.record.incarnation = incarnation;
        self.witness.last = None;
        if self.rng.chance(300) {
            self.witness.record.epoch = Epoch(0);
            self.witness.record.version = 0;
            self.witness.record.in_sync.clear();
            self.witness.record.winner = None;
        }
        self.note(|w| format!("** witness restored: {:?}", w.witness.record));
    }

    /// Replication alone fails: the agents still hear each other.
    fn block_replication(&mut self) {
        let time = self.cut_time();
        self.block_replication_for(time);
    }

    pub fn block_replication_for(&mut self, time: u64) {
        self.note(|_| format!("** replication blocked for {time} ms"));
        self.replication_open = false;
        self.at(time, Event::Heal(Healing::Replication));
    }

    fn slow_disk(&mut self, node: usize) {
        self.nodes[node].slow_disk = true;
        let time = self.cut_time();
        self.at(time, Event::Heal(Healing::SlowDisk { node }));
    }

    fn no_watchdog(&mut self, node: usize) {
        self.note(|_| format!("** {} cannot arm its watchdog", slot(node)));
        self.nodes[node].can_arm = false;
        let time = self.down_time();
        self.at(time, Event::Heal(Healing::Watchdog { node }));
    }

    /// The OS disk is replaced: the server comes back without its state, the data disk stays.
    fn lose_state(&mut self, node: usize) {
        if !self.may_forget(Memory::Server) {
            return;
        }
        self.power_off(node, Some(30_000));
        self.note(|_| format!("** {} loses its state", slot(node)));
        self.nodes[node].disk = None;
        self.nodes[node].older_disk = None;
    }

    /// Where the winner's disk and the witness have both forgotten who won, nobody can know it but
    /// a person: no liveness is promised then.
    pub fn may_forget(&mut self, memory: Memory) -> bool {
        let first = *self.forgot.get_or_insert(memory);
        first == memory || self.opts.mode == Mode::Safety
    }

    /// A guest ends by itself.
    fn guest_crash(&mut self, node: usize) {
        let vm = self.rng.index(self.vms.len());
        self.guest_ends(node, vm);
    }

    pub fn heal(&mut self, what: Healing) {
        if self.quiet {
            // All is healed; what breaks in the last act stays broken.
            return;
        }
        match what {
            Healing::Path { path, from } => self.open[path][from] = true,
            Healing::Wan { node, reply: false } => self.wan_to[node] = true,
            Healing::Wan { node, reply: true } => self.wan_from[node] = true,
            Healing::Replication => self.replication_open = true,
            Healing::Witness => self.witness_up = true,
            Healing::Local => self.local.up = true,
            Healing::LocalPath => (self.local.to, self.local.from) = ([true; 2], [true; 2]),
            Healing::LocalSet => {
                self.local.set = [self.local.fitted; 2];
                self.tell_box();
            }
            Healing::Watchdog { node } => self.nodes[node].can_arm = true,
            Healing::Bmc { node } => self.nodes[node].bmc.open = true,
            Healing::SlowDisk { node } => self.nodes[node].slow_disk = false,
        }
    }

    /// Mends everything and keeps it so.
    pub fn heal_all(&mut self) {
        self.note(|_| "** everything is healed".to_owned());
        self.quiet = true;
        self.open = [[true; 2]; 2];
        self.replication_open = true;
        self.wan_to = [true; 2];
        self.wan_from = [true; 2];
        self.witness_up = true;
        self.local.heal();
        self.tell_box();
        self.loss = self.loss.min(30);
        for node in 0..2 {
            self.nodes[node].can_arm = true;
            self.nodes[node].slow_disk = false;
            self.nodes[node].bmc.open = true;
            if !self.nodes[node].up {
                let power = self.nodes[node].power;
                let after = self.rng.range(1_000, 20_000);
                self.at(after, Event::Boot { node, power });
            }
        }
    }
}
