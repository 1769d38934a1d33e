// SPDX-License-Identifier: Apache-2.0
//! Going on alone: starting up as the recorded survivor (R9 a), and taking over the peer's VMs
//! once they have certainly stopped (R6).

use crate::peer::PeerFacts;
use crate::settle::Reason;
use crate::{Core, Mode};

impl Core {
    /// Recorded SOLO: after a cold start, look for something newer first.
    pub(crate) fn solo_mode(&self) -> Mode {
        if !self.solo_in_force() {
            // The pair is being taken up again: what runs goes on, connected.
            return if self.was_up { Mode::Pair } else { Mode::Suspect };
        }
        if self.mode == Mode::Solo || !self.cold {
            return Mode::Solo;
        }
        let looked = self.now.since(self.boot_at) >= self.config.solo_boot_ms;
        let heard_all =
            self.facts().is_some_and(|peer| peer.mutual) && self.witness.answered_at().is_some();
        if looked || heard_all { Mode::Solo } else { Mode::Wait }
    }

    /// R6: the peer says at my epoch that its VMs are gone, an operator or its BMC says that it is
    /// off, or its watchdog must have reset it.
    pub(crate) fn peer_is_fenced(&self, peer: Option<PeerFacts>) -> bool {
        let released = peer.is_some_and(|peer| {
            peer.yielded() && peer.released && peer.epoch >= self.durable.epoch
        });
        released || self.durable.override_ || self.bmc.says_off() || self.fence_time_over()
    }

    fn fence_time_over(&self) -> bool {
        !self.was_up
            && self.durable.peer_watchdog
            && self.now.since(self.link_down_since) >= self.config.fence_ms
    }

    pub(crate) fn take_over(&mut self, peer: Option<PeerFacts>) -> bool {
        if self.mode != Mode::Solo || !self.solo_in_force() || !self.peer_has_vms() {
            return false;
        }
        if !self.peer_is_fenced(peer) {
            return false;
        }
        let mut state = self.durable.clone();
        for owner in state.owners.values_mut() {
            *owner = self.me();
        }
        state.moves.clear();
        self.persist(state, Reason::TookOver);
        true
    }

    /// Whether VMs that HQ wants still belong to the peer.
    pub(crate) fn peer_has_vms(&self) -> bool {
        self.durable.owners.values().any(|owner| *owner == self.me().peer())
    }
}
