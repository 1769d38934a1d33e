// SPDX-License-Identifier: Apache-2.0
//! An operator's word that the other server is off (rule R8): the last way on for a server whose
//! peer, witness and tie-break are all out of reach, and for the VMs of a lost server that had no
//! watchdog and whose BMC does not answer. It is recorded as an override, published to the witness as
//! soon as possible, and undone only by the other server's return.

use crate::settle::Reason;
use crate::state::{DurableState, Millis};
use crate::{Core, Mode};

/// A word that could not be acted on for this long (a write was under way) is void.
const VALID_MS: u64 = 5_000;

impl Core {
    /// Takes the word, or says why not.
    pub(crate) fn declared(&mut self) {
        match self.declare_block() {
            None => self.declared_at = Some(self.now),
            Some(text) => self.report("declare_refused", text.to_owned()),
        }
    }

    fn declare_block(&self) -> Option<&'static str> {
        if self.durable.solo && !self.waits_for_fence() {
            return Some("This server goes on alone already.");
        }
        if !self.durable.votes() {
            return Some(
                "This server does not hold the newest data: only the other one can go on.",
            );
        }
        if self.facts().is_some() || self.was_up {
            return Some("The other server is heard: it is not off.");
        }
        if !matches!(self.mode, Mode::Suspect | Mode::Solo) {
            return Some(
                "This is possible only while this server is frozen or waits for the other.",
            );
        }
        if !self.may_go_alone() {
            return Some("This server's own disks are not whole.");
        }
        None
    }

    pub(crate) fn go_on_as_declared(&mut self) -> bool {
        let fresh = |at: Millis| self.now.since(at) < VALID_MS;
        if !self.declared_at.take().is_some_and(fresh) || self.declare_block().is_some() {
            return false;
        }
        let epoch = self.next_epoch();
        let state = DurableState { override_: true, ..self.base(epoch, self.alone()) };
        self.persist(state, Reason::Declared);
        true
    }
}
