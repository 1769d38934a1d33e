// SPDX-License-Identifier: Apache-2.0
//! What this server tells its peer: its durable state and what it sees, often and on change.

use crate::authority::Authority;
use crate::effect::Effect;
use crate::{Core, Mode};
use provisioning_protocol::ids::Epoch;
use provisioning_protocol::peer::{Path, PeerBody, PeerState};

/// A witness record older than this is not passed on.
const RECORD_FRESH_MS: u64 = 30_000;

/// What a message says, in short: a change of it is told at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Gist {
    epoch: Epoch,
    state: PeerState,
    votes: (bool, bool),
    solo: bool,
    claimed: bool,
    link_up: bool,
    disks: bool,
    watchdogs: (bool, bool),
    released: bool,
    hears: (bool, bool),
    counts: (usize, usize),
    moves: (usize, usize),
    live: (Option<Option<u64>>, Option<Option<u64>>),
    agreement: Option<(Epoch, bool)>,
}

impl Core {
    pub(crate) fn drive_heartbeat(&mut self) {
        let due = self.sent_at.is_none_or(|at| self.now.since(at) >= self.config.heartbeat_ms);
        let gist = self.gist();
        if due || self.sent != Some(gist) {
            self.sent_at = Some(self.now);
            self.sent = Some(gist);
            let body = Box::new(self.message());
            self.out.push(Effect::SendPeer { body });
        }
    }

    fn gist(&self) -> Gist {
        let hears = |path| self.peer.hears(self.now, self.config.heard_ms, path);
        let durable = &self.durable;
        Gist {
            epoch: durable.epoch,
            state: self.peer_state(),
            votes: (durable.votes(), durable.in_sync.contains(&self.me().peer())),
            solo: durable.solo,
            claimed: self.claimed,
            link_up: self.was_up && !self.giving_way(),
            disks: self.disks_up_to_date(),
            watchdogs: (self.watchdog == Some(true), durable.peer_watchdog),
            released: self.released(),
            hears: (hears(Path::Cable), hears(Path::Lan)),
            moves: (
                durable.moves.len(),
                durable.owners.values().filter(|owner| **owner == self.me()).count(),
            ),
            live: self.moves.live.gist(),
            counts: (self.vms.alive().count(), durable.owners.len()),
            agreement: self.agreement().map(|agree| (agree.epoch, agree.outdated)),
        }
    }

    fn message(&self) -> PeerBody {
        let fresh = |at| self.now.since(at) < RECORD_FRESH_MS;
        let (receives, handed) = self.moves.live.told();
        let witness = self.witness.answered_at().filter(|at| fresh(*at));
        PeerBody {
            epoch: self.durable.epoch,
            state: self.peer_state(),
            in_sync: self.durable.in_sync.clone(),
            watchdog_armed: self.watchdog == Some(true),
            hears: self.peer.paths(self.now, self.config.heard_ms),
            link_up: self.was_up && !self.giving_way(),
            disks_up_to_date: self.disks_up_to_date(),
            running: self.running(),
            released: self.released(),
            witness: witness.and_then(|_| self.witness.record().cloned()),
            agree: self.agreement(),
            solo: self.durable.solo,
            claimed: self.claimed,
            sees_watchdog: self.durable.peer_watchdog,
            owners: self.durable.owners.clone(),
            tie: self.durable.tie,
            hq_lost: self.hq_lost(),
            local_witness: self.local_witness(),
            moves: self.durable.moves.clone(),
            receives,
            handed,
        }
    }

    /// Nothing of a VM is left here, and nothing may be started.
    fn released(&self) -> bool {
        self.authority() != Authority::Full
            && self.mode != Mode::Boot
            && self.vms.here().next().is_none()
            && self.evicting.is_none()
    }
}
