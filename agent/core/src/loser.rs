// SPDX-License-Identifier: Apache-2.0
//! The kernel's questions (ha.md 4.3) and leaving the field: a server without a vote answers its
//! helpers, waits until they are gone, and only then evicts its VMs.

use crate::effect::{Effect, HelperCode};
use crate::state::Millis;
use crate::{Core, Mode};
use provisioning_protocol::ids::VmName;

/// A fence-peer helper that waits, or has been answered and is not gone yet.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Helper {
    pub primary: bool,
    pub answer: Option<HelperCode>,
    pub at: Millis,
}

/// A helper that waits although the link is up is let go after this: the kernel ignores it.
const STALE_HELPER_MS: u64 = 2_000;

impl Core {
    /// Answers what can be answered; the others wait.
    pub(crate) fn answer_helpers(&mut self) {
        let open: Vec<u64> = self
            .helpers
            .iter()
            .filter(|(_, helper)| helper.answer.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            let helper = &self.helpers[&id];
            let Some(code) = self.helper_code(helper) else { continue };
            if let Some(helper) = self.helpers.get_mut(&id) {
                helper.answer = Some(code);
            }
            self.out.push(Effect::AnswerHelper { id, code });
        }
    }

    fn helper_code(&self, helper: &Helper) -> Option<HelperCode> {
        if self.mode == Mode::Solo && self.solo_in_force() {
            let agreed = self.peer.body(self.now, self.config.heard_ms).is_some_and(|body| {
                body.agree.as_ref().is_some_and(|agree| {
                    agree.durable && agree.outdated && agree.in_sync == self.durable.in_sync
                })
            });
            let code = if agreed { HelperCode::PeerOutdated } else { HelperCode::Granted };
            return Some(code);
        }
        if !self.durable.votes() {
            let code = if helper.primary { HelperCode::Undecided } else { HelperCode::Lost };
            return Some(code);
        }
        let stale = self.was_up && self.now.since(helper.at) >= STALE_HELPER_MS;
        // A promotion that has no right is not kept waiting.
        let barred = !helper.primary && self.mode != Mode::Pair;
        (stale || barred).then_some(HelperCode::Undecided)
    }

    /// Lost: helpers first, then the eviction, then free.
    pub(crate) fn drive_loser(&mut self) {
        if self.yields.take_outdate() {
            self.out.push(Effect::Outdate);
        }
        if self.mode != Mode::Loser {
            self.loser_since = None;
            return;
        }
        let since = *self.loser_since.get_or_insert(self.now);
        if self.now.since(since) >= self.config.evict_ms {
            self.reset_server("the VMs could not be evicted in time");
            return;
        }
        // A promotion under way would outlive the eviction; its helper has been told no.
        if self.evicting.is_some() || !self.helpers.is_empty() || self.vms.changing_role() {
            return;
        }
        let vms: Vec<VmName> = self.vms.here().cloned().collect();
        if !vms.is_empty() {
            self.evicting = Some(vms.clone());
            self.out.push(Effect::Evict { vms });
        }
    }

    pub(crate) fn evict_done(&mut self, ok: bool) {
        let Some(vms) = self.evicting.take() else { return };
        if ok {
            self.vms.evicted(&vms);
            self.report("evicted", format!("Released {} VMs to the other server.", vms.len()));
        } else {
            self.reset_server("an eviction step was blocked");
        }
    }

    fn reset_server(&mut self, why: &str) {
        self.reset = true;
        let cause = format!("Resetting this server, which has lost its right to run VMs: {why}.");
        self.out.push(Effect::Reset { cause });
    }
}
