// SPDX-License-Identifier: Apache-2.0
//! The replication of the site: losing and making connections, freezing, resync, helpers,
//! promotion, and the VMs' writes.

use crate::check::holds_all;
use crate::drbd::{Conn, Meeting, Vol};
use crate::opts::Mutation;
use crate::world::{Event, Helper, Shell, World, slot};
use agent_core::{Disk, Input, LinkSummary, VmRun};

/// What an attempt to make a volume primary comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promotion {
    Done,
    Refused,
    /// The helper was called; its answer decides.
    Asked,
}

impl World {
    /// Every 100 ms: what the two kernels notice of each other.
    pub fn kernel(&mut self) {
        let both_ways = self.replicates(0) && self.replicates(1);
        for vm in 0..self.vms.len() {
            if self.nodes[0].vols.is_empty() || self.nodes[1].vols.is_empty() {
                break;
            }
            for node in 0..2 {
                if self.nodes[node].alive() {
                    self.notice(node, vm, both_ways);
                }
            }
            self.try_connect(vm, both_ways);
            self.finish_sync(vm, both_ways);
        }
        self.tell_links();
    }

    fn notice(&mut self, node: usize, vm: usize, both_ways: bool) {
        let theirs = self.nodes[1 - node].vols[vm].connected();
        let reaches_me = self.replicates(1 - node);
        let now = self.now;
        let delay = self.rng.range(1_500, 2_400);
        let mine = &mut self.nodes[node].vols[vm];
        if !mine.connected() {
            return;
        }
        if !theirs && reaches_me {
            return self.lose_connection(node, vm);
        }
        if both_ways {
            mine.notice_at = None;
            if mine.waiting.is_some() {
                self.deliver_waiting(node, vm);
            }
            return;
        }
        let at = *mine.notice_at.get_or_insert(now + delay);
        if now >= at {
            self.lose_connection(node, vm);
        }
    }

    /// One side sees its connection die. A primary whose peer had good data freezes and asks.
    pub fn lose_connection(&mut self, node: usize, vm: usize) {
        let (now, fresh) = (self.now, self.fresh());
        let vol = &mut self.nodes[node].vols[vm];
        vol.conn = Conn::Connecting(now);
        vol.notice_at = None;
        vol.losses += 1;
        vol.sync_until = None;
        let peer_disk = std::mem::replace(&mut vol.peer_disk, Disk::Unknown);
        if !vol.primary {
            return;
        }
        if peer_disk > Disk::Outdated {
            vol.frozen = true;
            self.call_helper(node, vm, true);
        } else {
            vol.leave_peer_behind(fresh);
            vol.peer_outdated = true;
            self.ack_waiting(node, vm);
        }
    }

    fn call_helper(&mut self, node: usize, vm: usize, primary: bool) {
        let id = self.fresh();
        let losses = self.nodes[node].vols[vm].losses;
        let born_at = self.now;
        self.nodes[node].helpers.push(Helper { id, vm, losses, primary, born_at });
        self.note(|w| format!("{} kernel: fence-peer {} ({id})", slot(node), w.vms[vm]));
        if self.mutated(Mutation::ThawWithoutGrant) && primary {
            return self.answer_helper(node, id, 7);
        }
        if self.mutated(Mutation::HideHelpers) {
            return;
        }
        self.hand_over_helper(node, id);
    }

    /// The helper reaches the agent a moment later (or when the agent is back).
    fn hand_over_helper(&mut self, node: usize, id: u64) {
        let agent = self.nodes[node].agent;
        if self.nodes[node].core.is_some() {
            self.at(
                1,
                Event::Shell { node, agent, what: Shell::AnswerHelper { helper: id, code: 255 } },
            );
        }
    }

    /// The agent hears of a waiting helper.
    pub fn helper_asks(&mut self, node: usize, id: u64) {
        let Some(helper) = self.nodes[node].helpers.iter().find(|h| h.id == id).cloned() else {
            return;
        };
        let vm = self.vms[helper.vm].clone();
        self.feed(node, Input::HelperAsked { id, vm, primary: helper.primary });
    }

    /// A helper exits: the kernel acts on its code, if the question still stands.
    pub fn answer_helper(&mut self, node: usize, id: u64, code: u8) {
        let Some(at) = self.nodes[node].helpers.iter().position(|h| h.id == id) else { return };
        let helper = self.nodes[node].helpers.remove(at);
        if code == 4 || code == 7 {
            self.check_grant(node, code);
        }
        let fresh = self.fresh();
        let vol = &mut self.nodes[node].vols[helper.vm];
        let stands = vol.losses == helper.losses && !vol.connected();
        if stands && helper.primary && vol.frozen && (code == 4 || code == 7) {
            vol.frozen = false;
            vol.peer_outdated = true;
            vol.leave_peer_behind(fresh);
            self.ack_waiting(node, helper.vm);
        } else if stands && !helper.primary {
            match code {
                4 | 7 if vol.disk >= Disk::Consistent => {
                    vol.disk = Disk::UpToDate;
                    vol.peer_outdated = true;
                    vol.leave_peer_behind(fresh);
                    vol.primary = true;
                }
                6 => vol.disk = vol.disk.min(Disk::Outdated),
                _ => {}
            }
        }
        self.feed(node, Input::HelperGone { id });
        self.tell_links();
    }

    /// `drbdsetup primary`.
    pub fn promote(&mut self, node: usize, vm: usize) -> Promotion {
        let theirs = self.nodes[1 - node].vols[vm].primary;
        let fresh = self.fresh();
        let vol = &mut self.nodes[node].vols[vm];
        if vol.primary {
            return Promotion::Done;
        }
        if vol.connected() {
            if theirs || vol.disk != Disk::UpToDate || vol.notice_at.is_some() {
                return Promotion::Refused;
            }
            vol.primary = true;
            return Promotion::Done;
        }
        if vol.peer_outdated && vol.disk == Disk::UpToDate {
            vol.leave_peer_behind(fresh);
            vol.primary = true;
            self.check_primary_alone(node);
            return Promotion::Done;
        }
        if vol.disk < Disk::Consistent {
            return Promotion::Refused;
        }
        self.call_helper(node, vm, false);
        Promotion::Asked
    }

    fn try_connect(&mut self, vm: usize, both_ways: bool) {
        let waited = |vol: &Vol, now: u64| match vol.conn {
            Conn::Connecting(since) => now >= since + 1_000 && vol.disk > Disk::Diskless,
            _ => false,
        };
        let ready = (0..2).all(|n| waited(&self.nodes[n].vols[vm], self.now));
        if !both_ways || !ready {
            return;
        }
        let meeting = self.nodes[0].vols[vm].meet(&self.nodes[1].vols[vm]);
        self.note(|w| format!("  kernel: {} meets: {meeting:?}", w.vms[vm]));
        match meeting {
            Meeting::Same => self.connect(vm, None),
            Meeting::FirstToSecond => self.connect(vm, Some(0)),
            Meeting::SecondToFirst => self.connect(vm, Some(1)),
            Meeting::Refused => self.stand_alone(vm, false),
            Meeting::SplitBrain => {
                self.stand_alone(vm, true);
                let text = format!("split brain: {} has diverged", self.vms[vm]);
                self.fail(text);
            }
        }
    }

    fn stand_alone(&mut self, vm: usize, split_brain: bool) {
        for node in &mut self.nodes {
            node.vols[vm].conn = Conn::StandAlone;
            node.vols[vm].split_brain |= split_brain;
        }
    }

    fn connect(&mut self, vm: usize, source: Option<usize>) {
        let sync_ms = self.rng.range(300, 15_000);
        for node in 0..2 {
            let vol = &mut self.nodes[node].vols[vm];
            vol.conn = Conn::Connected;
            vol.notice_at = None;
            vol.frozen = false;
            if source.is_none() || source == Some(node) {
                vol.disk = Disk::UpToDate;
            } else {
                vol.disk = Disk::Inconsistent;
                vol.sync_until = Some(self.now + sync_ms);
                vol.primary = false;
            }
            if source.is_none() {
                (vol.crashed, vol.peer_outdated) = (false, false);
            }
        }
        for node in 0..2 {
            self.nodes[node].vols[vm].peer_disk = self.nodes[1 - node].vols[vm].disk;
        }
        if source.is_none() {
            self.level(vm);
        }
        for node in 0..2 {
            self.deliver_waiting(node, vm);
        }
    }

    /// A write that was sent and not acknowledged is sent again, and acknowledged.
    fn deliver_waiting(&mut self, node: usize, vm: usize) {
        let Some(id) = self.nodes[node].vols[vm].waiting else { return };
        let theirs = &mut self.nodes[1 - node].vols[vm];
        if theirs.sync_until.is_none() && !theirs.log.contains(&id) {
            theirs.log.push(id);
        }
        self.ack_waiting(node, vm);
    }

    /// After a meeting of equals: writes only one side has (never acknowledged) are evened out.
    fn level(&mut self, vm: usize) {
        let [first, second] = &mut self.nodes;
        let (a, b) = (&mut first.vols[vm], &mut second.vols[vm]);
        // Between equals only the primary's last write may be missing, or a crashed secondary
        // may hold one the primary never had acknowledged.
        let source_first = a.primary || (!b.primary && a.log.len() >= b.log.len());
        if source_first { b.log.clone_from(&a.log) } else { a.log.clone_from(&b.log) }
    }

    fn finish_sync(&mut self, vm: usize, both_ways: bool) {
        let now = self.now;
        let Some(target) = (0..2)
            .find(|n| self.nodes[*n].vols[vm].sync_until.is_some_and(|at| now >= at))
            .filter(|_| both_ways && (0..2).all(|n| self.nodes[n].vols[vm].connected()))
        else {
            return;
        };
        let source = self.nodes[1 - target].vols[vm].clone();
        if !holds_all(&source.log, &self.acked[vm]) {
            let text = format!("I6: resync of {} overwrites acknowledged writes", self.vms[vm]);
            self.fail(text);
        }
        let vol = &mut self.nodes[target].vols[vm];
        vol.log.clone_from(&source.log);
        vol.generation = source.generation;
        vol.history.clone_from(&source.history);
        vol.sync_until = None;
        vol.disk = Disk::UpToDate;
        vol.peer_disk = Disk::UpToDate;
        for node in &mut self.nodes {
            let vol = &mut node.vols[vm];
            (vol.bitmap, vol.crashed, vol.peer_outdated) = (0, false, false);
            vol.peer_disk = Disk::UpToDate;
        }
        self.note(|w| format!("  kernel: {} resync to {} done", w.vms[vm], slot(target)));
    }

    /// A VM's guest writes, on every server where its vCPUs run.
    pub fn write(&mut self, vm: usize) {
        for node in 0..2 {
            let here = &self.nodes[node];
            if here.alive() && here.runs[vm] == VmRun::Running && !here.vols.is_empty() {
                self.write_on(node, vm);
            }
        }
    }

    fn write_on(&mut self, node: usize, vm: usize) {
        let (out, back) = (self.replicates(node), self.replicates(1 - node));
        let theirs_connected = self.nodes[1 - node].vols[vm].connected();
        let vol = &self.nodes[node].vols[vm];
        if !vol.primary || vol.frozen || vol.waiting.is_some() || vol.disk < Disk::Consistent {
            return;
        }
        if std::mem::take(&mut self.nodes[node].first_io[vm])
            && !holds_all(&self.nodes[node].vols[vm].log, &self.acked[vm])
        {
            let text = format!(
                "I3: {} was started on {} without all its writes",
                self.vms[vm],
                slot(node)
            );
            return self.fail(text);
        }
        let id = u32::try_from(self.fresh()).expect("few writes");
        self.memory[vm] += 1;
        let vol = &mut self.nodes[node].vols[vm];
        vol.log.push(id);
        vol.waiting = Some(id);
        if !vol.connected() {
            return self.ack_waiting(node, vm);
        }
        if out && theirs_connected && self.rng.chance(997) {
            let target = &mut self.nodes[1 - node].vols[vm];
            if target.sync_until.is_none() {
                target.log.push(id);
            }
            if back {
                self.ack_waiting(node, vm);
            }
        }
    }

    /// The guest gets its acknowledgement.
    fn ack_waiting(&mut self, node: usize, vm: usize) {
        let Some(id) = self.nodes[node].vols[vm].waiting.take() else { return };
        self.acked[vm].push(id);
        self.stats.acked += 1;
        self.check_ack(node, vm, id);
    }

    /// Graceful `disconnect` of one side: the other sees an outdated peer.
    pub fn disconnect(&mut self, node: usize, vm: usize) {
        if self.nodes[node].vols[vm].connected() && self.replicates(node) {
            let theirs = &mut self.nodes[1 - node].vols[vm];
            if theirs.connected() && !self.nodes[node].vols[vm].primary {
                self.nodes[1 - node].vols[vm].peer_disk = Disk::Outdated;
                self.lose_connection(1 - node, vm);
            }
        }
        let vol = &mut self.nodes[node].vols[vm];
        vol.losses += 1;
        vol.conn = Conn::StandAlone;
        vol.sync_until = None;
        vol.notice_at = None;
        vol.peer_disk = Disk::Unknown;
        let asks_again = vol.primary && vol.frozen;
        if asks_again {
            self.call_helper(node, vm, true);
        }
    }

    fn summary(&self, node: usize) -> LinkSummary {
        let vols = &self.nodes[node].vols;
        let worst = |pick: fn(&Vol) -> Disk| vols.iter().map(pick).min().unwrap_or_default();
        let hide = self.mutated(Mutation::JoinBeforeResync);
        let shown = |disk: Disk| if hide && disk > Disk::Diskless { Disk::UpToDate } else { disk };
        LinkSummary {
            volumes: u32::try_from(vols.len()).expect("few"),
            connected: vols.iter().all(Vol::connected),
            stand_alone: vols.iter().any(|vol| vol.conn == Conn::StandAlone),
            frozen: vols.iter().any(|vol| vol.frozen),
            split_brain: vols.iter().any(|vol| vol.split_brain),
            mine: shown(worst(|vol| vol.disk)),
            peers: shown(worst(|vol| vol.peer_disk)),
            resync_percent: None,
        }
    }

    /// Tells the agents what changed; the disk states shown are those of a connected peer.
    pub fn tell_links(&mut self) {
        for vm in 0..self.vms.len() {
            for node in 0..2 {
                if self.nodes[node].vols.get(vm).is_some_and(Vol::connected)
                    && self.nodes[1 - node].vols[vm].connected()
                {
                    let disk = self.nodes[1 - node].vols[vm].disk;
                    self.nodes[node].vols[vm].peer_disk = disk;
                }
            }
        }
        for node in 0..2 {
            if self.nodes[node].core.is_none() || !self.nodes[node].alive() {
                continue;
            }
            let summary = self.summary(node);
            if self.nodes[node].told_link != Some(summary) {
                self.nodes[node].told_link = Some(summary);
                self.feed(node, Input::LinkChanged(summary));
            }
        }
    }
}
