// SPDX-License-Identifier: Apache-2.0
//! The replication of the site, on the simulator's volumes: losing and making connections, freezing,
//! resync, helpers, promotion, and the VM's writes.

use crate::rules::Mutation;
use crate::site::{Helper, ROUND_MS, Site, Work, slot};
use agent_core::{Disk, Input, LinkSummary, VmRun};
use tests_sim::drbd::{Conn, Meeting, Vol};

/// How soon a side notices that the other does not answer, and how late (ha.md 3.1).
const NOTICE_MS: [u64; 2] = [1_500, 2_500];
/// How long a resync takes.
const SYNC_MS: u64 = 2_000;
const CONNECT_MS: u64 = 1_000;

/// What an attempt to become primary comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    Done,
    Refused,
    Asked,
}

impl Site {
    fn vol(&mut self, node: usize) -> &mut Vol {
        self.nodes[node].vol.as_mut().expect("volumes are made before the first fault")
    }

    /// Once a round: what the two kernels notice of each other.
    pub fn kernel(&mut self) {
        if self.nodes.iter().any(|node| node.vol.is_none()) {
            return;
        }
        let both_ways = self.replicates(0) && self.replicates(1);
        for node in 0..2 {
            if self.nodes[node].up {
                self.notice(node, both_ways);
            }
        }
        self.try_connect(both_ways);
        self.finish_sync(both_ways);
        self.tell_links();
    }

    fn notice(&mut self, node: usize, both_ways: bool) {
        let theirs = self.nodes[1 - node].connected();
        let reaches_me = self.replicates(1 - node);
        let (now, delay) = (self.now(), NOTICE_MS[usize::from(self.early != node)]);
        let mine = self.vol(node);
        if !mine.connected() {
            return;
        }
        if !theirs && reaches_me {
            return self.lose_connection(node);
        }
        if both_ways {
            mine.notice_at = None;
            return self.deliver_waiting(node);
        }
        let at = *mine.notice_at.get_or_insert(now + delay - ROUND_MS);
        if now >= at {
            self.lose_connection(node);
        }
    }

    /// One side sees its connection die. A primary whose peer had good data freezes and asks.
    pub fn lose_connection(&mut self, node: usize) {
        let (now, fresh) = (self.now(), u64::from(self.fresh(node)));
        let vol = self.vol(node);
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
            self.call_helper(node, true);
        } else {
            vol.leave_peer_behind(fresh);
            vol.peer_outdated = true;
            self.ack_waiting(node);
        }
    }

    fn call_helper(&mut self, node: usize, primary: bool) {
        let losses = self.vol(node).losses;
        let here = &mut self.nodes[node];
        here.helper_ids += 1;
        let id = here.helper_ids;
        here.helpers.push(Helper { id, losses, primary });
        if self.mutated(Mutation::ThawWithoutGrant) && primary {
            return self.answer_helper(node, id, 7);
        }
        self.own(node, 0, Work::HelperAsks(id));
    }

    /// A helper exits: the kernel acts on its code, if the question still stands.
    pub fn answer_helper(&mut self, node: usize, id: u64, code: u8) {
        let Some(at) = self.nodes[node].helpers.iter().position(|h| h.id == id) else { return };
        let helper = self.nodes[node].helpers.remove(at);
        if code == 4 || code == 7 {
            self.check_grant(node, "thaws");
        }
        let fresh = u64::from(self.fresh(node));
        let vol = self.vol(node);
        let stands = vol.losses == helper.losses && !vol.connected();
        if stands && helper.primary && vol.frozen && (code == 4 || code == 7) {
            vol.frozen = false;
            vol.peer_outdated = true;
            vol.leave_peer_behind(fresh);
            self.ack_waiting(node);
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
    pub fn promote(&mut self, node: usize) -> Promotion {
        let theirs = self.vol(1 - node).primary;
        let fresh = u64::from(self.fresh(node));
        let vol = self.vol(node);
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
            self.check_grant(node, "becomes primary alone");
            return Promotion::Done;
        }
        if vol.disk < Disk::Consistent {
            return Promotion::Refused;
        }
        self.call_helper(node, false);
        Promotion::Asked
    }

    fn try_connect(&mut self, both_ways: bool) {
        let now = self.now();
        let waited = |vol: &Vol| match vol.conn {
            Conn::Connecting(since) => now >= since + CONNECT_MS && vol.disk > Disk::Diskless,
            _ => false,
        };
        let ready = (0..2).all(|node| waited(self.vol(node)));
        if !both_ways || !ready {
            return;
        }
        let second = self.vol(1).clone();
        let meeting = self.vol(0).meet(&second);
        self.note(|_| format!("  kernels meet: {meeting:?}"));
        match meeting {
            Meeting::Same => self.connect(None),
            Meeting::FirstToSecond => self.connect(Some(0)),
            Meeting::SecondToFirst => self.connect(Some(1)),
            Meeting::Refused => self.stand_alone(false),
            Meeting::SplitBrain => {
                self.stand_alone(true);
                self.broke("I1", "split brain: the data has diverged".into());
            }
        }
    }

    fn stand_alone(&mut self, split_brain: bool) {
        for node in 0..2 {
            let vol = self.vol(node);
            vol.conn = Conn::StandAlone;
            vol.split_brain |= split_brain;
        }
    }

    fn connect(&mut self, source: Option<usize>) {
        let until = self.now() + SYNC_MS;
        if let Some(source) = source {
            self.check_overwrite(source, 1 - source);
        }
        for node in 0..2 {
            let vol = self.vol(node);
            vol.conn = Conn::Connected;
            vol.notice_at = None;
            vol.frozen = false;
            if source.is_none() || source == Some(node) {
                vol.disk = Disk::UpToDate;
            } else {
                vol.disk = Disk::Inconsistent;
                vol.sync_until = Some(until);
                vol.primary = false;
            }
            if source.is_none() {
                (vol.crashed, vol.peer_outdated) = (false, false);
            }
        }
        if source.is_none() {
            self.level();
        }
        for node in 0..2 {
            self.deliver_waiting(node);
        }
    }

    /// A write that was sent and not acknowledged is sent again, and acknowledged.
    fn deliver_waiting(&mut self, node: usize) {
        let Some(id) = self.vol(node).waiting else { return };
        let theirs = self.vol(1 - node);
        if theirs.sync_until.is_none() && !theirs.log.contains(&id) {
            theirs.log.push(id);
        }
        self.ack_waiting(node);
    }

    /// After a meeting of equals: writes only one side has (never acknowledged) are evened out.
    fn level(&mut self) {
        let second = self.vol(1).clone();
        let first = self.vol(0);
        if first.primary || (!second.primary && first.log.len() >= second.log.len()) {
            let log = first.log.clone();
            self.vol(1).log = log;
        } else {
            first.log = second.log;
        }
    }

    fn finish_sync(&mut self, both_ways: bool) {
        let now = self.now();
        let done =
            |site: &mut Self, node: usize| site.vol(node).sync_until.is_some_and(|at| now >= at);
        let Some(target) = (0..2).find(|node| done(self, *node)) else { return };
        if !both_ways || !self.nodes.iter().all(crate::site::Node::connected) {
            return;
        }
        let source = self.vol(1 - target).clone();
        let vol = self.vol(target);
        vol.log = source.log;
        vol.generation = source.generation;
        vol.history = source.history;
        vol.sync_until = None;
        vol.disk = Disk::UpToDate;
        for node in 0..2 {
            let vol = self.vol(node);
            (vol.bitmap, vol.crashed, vol.peer_outdated) = (0, false, false);
        }
        self.note(|_| format!("  resync to {} done", slot(target)));
    }

    /// The guest writes once a round, wherever its vCPUs run.
    pub fn write(&mut self) {
        for node in 0..2 {
            let here = &self.nodes[node];
            if here.up && here.run == VmRun::Running && here.vol.is_some() {
                self.write_on(node);
            }
        }
        self.forget_common();
    }

    fn write_on(&mut self, node: usize) {
        let (out, back) = (self.replicates(node), self.replicates(1 - node));
        let theirs_connected = self.nodes[1 - node].connected();
        let id = self.fresh(node);
        let vol = self.vol(node);
        if !vol.primary || vol.frozen || vol.waiting.is_some() || vol.disk < Disk::Consistent {
            return;
        }
        if std::mem::take(&mut self.nodes[node].first_io) {
            self.check_start(node);
        }
        let vol = self.vol(node);
        vol.log.push(id);
        vol.waiting = Some(id);
        if !vol.connected() {
            return self.ack_waiting(node);
        }
        if out && theirs_connected {
            let target = self.vol(1 - node);
            if target.sync_until.is_none() {
                target.log.push(id);
            }
            if back {
                self.ack_waiting(node);
            }
        }
    }

    /// The guest gets its acknowledgement.
    pub fn ack_waiting(&mut self, node: usize) {
        let Some(id) = self.vol(node).waiting.take() else { return };
        self.acked.push(id);
        self.check_ack(node, id);
    }

    /// Writes both sides hold can be lost by neither: they are dropped from the state.
    fn forget_common(&mut self) {
        let [a, b] = &mut self.nodes;
        let (Some(a), Some(b)) = (&mut a.vol, &mut b.vol) else { return };
        let open = [a.waiting, b.waiting];
        let common = a.log.iter().zip(&b.log);
        let many = common.take_while(|(x, y)| x == y && !open.contains(&Some(**x))).count();
        let gone: Vec<u32> = a.log.drain(..many).collect();
        b.log.drain(..many);
        self.acked.retain(|id| !gone.contains(id));
    }

    /// Graceful `disconnect` of one side: the other sees an outdated peer.
    pub fn disconnect(&mut self, node: usize) {
        if self.nodes[node].connected()
            && self.replicates(node)
            && self.nodes[1 - node].connected()
            && !self.vol(node).primary
        {
            self.vol(1 - node).peer_disk = Disk::Outdated;
            self.lose_connection(1 - node);
        }
        let vol = self.vol(node);
        vol.losses += 1;
        vol.conn = Conn::StandAlone;
        vol.sync_until = None;
        vol.notice_at = None;
        vol.peer_disk = Disk::Unknown;
        if vol.primary && vol.frozen {
            self.call_helper(node, true);
        }
    }

    fn summary(&self, node: usize) -> LinkSummary {
        let hide = self.mutated(Mutation::JoinBeforeResync);
        let shown = |disk: Disk| if hide && disk > Disk::Diskless { Disk::UpToDate } else { disk };
        let Some(vol) = &self.nodes[node].vol else { return LinkSummary::default() };
        LinkSummary {
            volumes: 1,
            connected: vol.connected(),
            stand_alone: vol.conn == Conn::StandAlone,
            frozen: vol.frozen,
            split_brain: vol.split_brain,
            mine: shown(vol.disk),
            peers: shown(vol.peer_disk),
            resync_percent: None,
        }
    }

    /// Tells the agents what changed; the disk states shown are those of a connected peer.
    pub fn tell_links(&mut self) {
        if self.nodes.iter().all(crate::site::Node::connected) {
            for node in 0..2 {
                let disk = self.vol(1 - node).disk;
                self.vol(node).peer_disk = disk;
            }
        }
        for node in 0..2 {
            if self.nodes[node].core.is_none() || !self.nodes[node].up {
                continue;
            }
            let summary = self.summary(node);
            if self.nodes[node].told_link != Some(summary) {
                self.nodes[node].told_link = Some(summary);
                self.feed(node, Input::LinkChanged(summary));
            }
        }
    }

    /// Both volumes are made, the same on both sides.
    pub fn make_volumes(&mut self) {
        for node in 0..2 {
            let mut vol = Vol::new(1);
            (vol.conn, vol.peer_disk) = (Conn::Connected, Disk::UpToDate);
            self.nodes[node].vol = Some(vol);
        }
        for node in 0..2 {
            self.tell_ready(node);
        }
        self.tell_links();
    }
}
