// SPDX-License-Identifier: Apache-2.0
//! What this server tells its peer: its durable state and what it sees, often and on change.

use crate::authority::Authority;
use crate::effect::Effect;
use crate::{Core, Mode};
use provisioning_protocol::peer::PeerBody;

/// A witness record older than this is not passed on.
const RECORD_FRESH_MS: u64 = 30_000;

impl Core {
    pub(crate) fn drive_heartbeat(&mut self) {
        let due = self.sent_at.is_none_or(|at| self.now.since(at) >= self.config.heartbeat_ms);
        let body = self.message();
        if due || self.sent.as_ref() != Some(&body) {
            self.sent_at = Some(self.now);
            self.sent = Some(body.clone());
            self.out.push(Effect::SendPeer { body: Box::new(body) });
        }
    }

    fn message(&self) -> PeerBody {
        let fresh = |at| self.now.since(at) < RECORD_FRESH_MS;
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
