// SPDX-License-Identifier: Apache-2.0
//! The other server's BMC (rule R7): its power is switched off and read back "Off" twice, so that its
//! VMs can be started here at once (R6), and switched on again for its return.
//!
//! Only a server that is alone by right gives these orders: then one at most ever does, and whatever
//! a BMC says costs no data. A confirmation is not a right to go on (design note 0008): the server
//! that was switched off may have gone on alone before. That it will be switched off is on disk first,
//! so that who did it also switches it on again, whatever happens meanwhile.

use crate::effect::Effect;
use crate::settle::Reason;
use crate::state::{DurableState, Millis};
use crate::{Core, Mode};
use std::collections::VecDeque;

/// Asked again this long after a try that did not end in "off"; one try takes 10 s at most.
const AGAIN_MS: u64 = 10_000;
/// A try without any answer is given up after this.
const ANSWER_MS: u64 = 15_000;
/// From "off" to the order to switch on: the VMs come first, and power supplies want a pause.
const REST_MS: u64 = 10_000;
/// Between two orders to switch on ...
const ON_AGAIN_MS: u64 = 60_000;
/// ... and at most so many after an order to switch off ...
const ON_MAX: usize = 3;
/// ... within this long.
const ON_WINDOW_MS: u64 = 3_600_000;

/// What is known of and by the other server's BMC.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Bmc {
    configured: bool,
    last_id: u64,
    /// The order under way.
    asked: Option<(u64, Millis)>,
    failed_at: Option<Millis>,
    /// Confirmed off, and nothing heard of the peer since.
    off_since: Option<Millis>,
    /// Orders to switch on.
    on_at: VecDeque<Millis>,
    told_silent: bool,
}

impl Bmc {
    pub fn configured(&mut self, yes: bool) {
        self.configured = yes;
    }

    pub fn usable(&self) -> bool {
        self.configured
    }

    /// Confirmed in this loss of the link.
    pub fn says_off(&self) -> bool {
        self.off_since.is_some()
    }

    /// No answer so far, or not the one hoped for.
    pub fn failed(&self) -> bool {
        self.failed_at.is_some()
    }

    fn may_order_on(&mut self, now: Millis) -> bool {
        while self.on_at.front().is_some_and(|at| now.since(*at) >= ON_WINDOW_MS) {
            self.on_at.pop_front();
        }
        let rested = self.on_at.back().is_none_or(|at| now.since(*at) >= ON_AGAIN_MS);
        self.on_at.len() < ON_MAX && rested
    }
}

impl Core {
    /// Takes the answer to an order that still stands.
    pub(crate) fn bmc_answered(&mut self, id: u64, off: bool) {
        if self.bmc.asked.is_none_or(|(asked, _)| asked != id) {
            return;
        }
        self.bmc.asked = None;
        if off {
            (self.bmc.off_since, self.bmc.failed_at) = (Some(self.now), None);
            let text = "The other server's BMC confirmed twice that it is off.";
            self.report("fenced", text.to_owned());
            return;
        }
        self.bmc.failed_at = Some(self.now);
        if !std::mem::replace(&mut self.bmc.told_silent, true) {
            let text =
                "The other server's BMC does not confirm that it is off; that is no evidence.";
            self.report("bmc_silent", text.to_owned());
        }
    }

    /// A peer that is heard or connected is not off, whatever was confirmed before.
    pub(crate) fn track_bmc(&mut self) {
        if self.was_up || self.facts().is_some() {
            let bmc = &mut self.bmc;
            (bmc.off_since, bmc.failed_at, bmc.told_silent) = (None, None, false);
        }
    }

    /// Alone by right, and the peer is silent on every path.
    fn alone_in_silence(&self) -> bool {
        self.bmc.configured
            && self.mode == Mode::Solo
            && self.solo_in_force()
            && !self.was_up
            && self.facts().is_none()
    }

    /// R7: its VMs are wanted here and nothing else says that they have stopped.
    fn wants_peer_off(&self) -> bool {
        self.alone_in_silence() && self.peer_has_vms() && !self.peer_is_fenced(None)
    }

    /// First on disk, then the order.
    pub(crate) fn latch_peer_off(&mut self) -> bool {
        let due = self.wants_peer_off() && !self.durable.fenced;
        if due {
            self.persist(DurableState { fenced: true, ..self.durable.clone() }, Reason::Note);
        }
        due
    }

    pub(crate) fn drive_bmc(&mut self) {
        let (now, wanted) = (self.now, self.wants_peer_off());
        if !wanted && self.bmc.asked.take().is_some() {
            self.out.push(Effect::SparePeer);
        }
        if self.bmc.asked.is_some_and(|(_, at)| now.since(at) >= ANSWER_MS) {
            (self.bmc.asked, self.bmc.failed_at) = (None, Some(now));
        }
        let rested = self.bmc.failed_at.is_none_or(|at| now.since(at) >= AGAIN_MS);
        if wanted && self.durable.fenced && self.bmc.asked.is_none() && rested {
            self.bmc.last_id += 1;
            self.bmc.asked = Some((self.bmc.last_id, now));
            // Who switches it off owes it the way back, however often it was switched on before.
            self.bmc.on_at.clear();
            self.out.push(Effect::FencePeer { id: self.bmc.last_id });
        }
        if self.wants_peer_on() && self.bmc.may_order_on(now) {
            self.bmc.on_at.push_back(now);
            self.out.push(Effect::PowerOnPeer);
            let text = "Switching the other server on again, so that it can come back.";
            self.report("power_on", text.to_owned());
        }
    }

    /// Switched off from here, its VMs taken over: it may come back. Not if an operator called it
    /// off: someone may be working on it.
    fn wants_peer_on(&self) -> bool {
        let since = self.bmc.off_since.unwrap_or(self.boot_at);
        self.alone_in_silence()
            && self.durable.fenced
            && !self.durable.override_
            && !self.peer_has_vms()
            && self.now.since(since) >= REST_MS
    }
}
