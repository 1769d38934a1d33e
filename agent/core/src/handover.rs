// SPDX-License-Identifier: Apache-2.0
//! The live part of a planned move: the VM's memory goes over while it runs, and only then is it
//! stopped, given and taken as in any other move. No volume is ever primary on both servers.
//!
//! ```text
//!   source                                 destination
//!   both have "till to B" on disk          has a QEMU that waits for memory under ticket 7
//!                           <────────────  receives till, ticket 7
//!   memory streams; vCPUs stop; all of it is over; QEMU is killed, volumes secondary
//!   writes "till is B's"    ────────────>
//!   handed till, ticket 7                  writes "till is B's", promotes, goes on with memory 7
//! ```
//! What can go wrong is memory older than the disk it is let loose on. A ticket is good for one
//! stream into one QEMU; the source vouches for it only after that stream was whole and its own
//! QEMU was killed, and never again once it starts the VM itself. The destination goes on with a
//! memory only if the source vouches for the very ticket in the message by which it gives the VM
//! away, and only at once. In all other cases the VM boots from its disks.

use crate::effect::Effect;
use crate::state::Millis;
use crate::{Core, Mode};
use provisioning_protocol::ids::VmName;
use provisioning_protocol::peer::{Handover, PeerBody};

/// A peer that has agreed to a move and says nothing of receiving it live (an older agent) gets
/// the VM by restart after this.
const RECEIVE_MS: u64 = 20_000;

/// What is remembered of a live move while the agent runs.
#[derive(Debug, Clone, Hash, Default)]
pub(crate) struct Live {
    /// As destination: what this server is ready to receive.
    receives: Option<Handover>,
    /// As destination: the memory to go on with at the next start.
    resume: Option<Handover>,
    /// As source: the stream under way, and whether it was called off.
    handing: Option<(VmName, u64, bool)>,
    /// As source: what has gone over whole.
    handed: Option<Handover>,
    /// As source: what is to be moved by restart, as it did not work live.
    plain: Option<VmName>,
    /// As source: since when the peer has agreed to take this VM.
    agreed: Option<(VmName, Millis)>,
}

impl Live {
    /// What a message says of it: what is received, and what was handed over.
    pub fn told(&self) -> (Option<Handover>, Option<Handover>) {
        (self.receives.clone(), self.handed.clone())
    }

    /// The same for a comparison.
    pub fn gist(&self) -> (Option<Option<u64>>, Option<Option<u64>>) {
        let ticket = |it: &Option<Handover>| it.as_ref().map(|it| it.ticket);
        (ticket(&self.receives), ticket(&self.handed))
    }

    pub fn has_handed(&self, name: &VmName) -> bool {
        self.handed.as_ref().is_some_and(|handed| handed.vm == *name)
    }

    /// Whether the next start of a VM is to go on with received memory.
    pub fn resumes(&self, name: &VmName) -> bool {
        self.resume.as_ref().is_some_and(|resume| resume.vm == *name)
    }

    /// The memory to start a VM with; from now on none that went away from here is good.
    pub fn start(&mut self, name: &VmName) -> Option<u64> {
        self.handed.take_if(|handed| handed.vm == *name);
        self.resume.take_if(|resume| resume.vm == *name)?.ticket
    }

    /// The QEMU that was to receive a VM is there, or cannot be.
    pub fn receives(&mut self, vm: VmName, ticket: Option<u64>) {
        self.receives = Some(Handover { vm, ticket });
    }

    /// The QEMU that was to receive a VM is put away.
    pub fn receives_no_more(&mut self, name: &VmName) {
        self.receives.take_if(|receives| receives.vm == *name);
    }

    /// The given VM may go on with what came over, if the source vouches for it.
    pub fn take(&mut self, name: &VmName, body: &PeerBody) {
        let same = |handed: &&Handover| {
            handed.vm == *name && handed.ticket.is_some() && Some(*handed) == self.receives.as_ref()
        };
        self.resume = body.handed.as_ref().filter(same).cloned();
    }

    /// A stream has ended. Whether the VM is gone from here.
    pub fn handed(&mut self, vm: VmName, ticket: u64, whole: bool) {
        self.handing.take_if(|(name, ..)| *name == vm);
        if whole {
            self.handed = Some(Handover { vm, ticket: Some(ticket) });
        } else {
            self.plain = Some(vm);
        }
    }
}

impl Core {
    /// Calls off a stream whose move is off, and forgets what no longer counts.
    pub(crate) fn drive_live(&mut self) {
        if self.mode != Mode::Pair {
            self.moves.live.resume = None;
        }
        let leaving = |name: &VmName| self.is_leaving(name);
        let live = &self.moves.live;
        let off = live.handing.as_ref().is_some_and(|(name, _, off)| !off && !leaving(name));
        let stale = live.plain.as_ref().is_some_and(|name| !leaving(name));
        let ended = live.agreed.as_ref().is_some_and(|(name, _)| !leaving(name));
        let live = &mut self.moves.live;
        if off && let Some((name, _, off)) = &mut live.handing {
            *off = true;
            self.out.push(Effect::KeepVm { vm: name.clone() });
        }
        if stale {
            live.plain = None;
        }
        if ended {
            live.agreed = None;
        }
        if live.handed.as_ref().is_some_and(|handed| !self.durable.moves.contains_key(&handed.vm)) {
            live.handed = None;
        }
    }

    /// A VM that runs here is to leave: live if it can. Whether it is to be stopped instead.
    pub(crate) fn hand_over(&mut self, name: &VmName) -> bool {
        if self.moves.live.handing.as_ref().is_some_and(|(handing, ..)| handing == name) {
            return false;
        }
        if !self.is_leaving(name) || self.moves.live.plain.as_ref() == Some(name) {
            return true;
        }
        let now = self.now;
        let agreed = self.moves.live.agreed.take().filter(|(agreed, _)| agreed == name);
        let (_, since) = agreed.unwrap_or_else(|| (name.clone(), now));
        self.moves.live.agreed = Some((name.clone(), since));
        let body = self.peer.body(now, self.config.heard_ms);
        let offer = body.and_then(|body| body.receives.as_ref()).filter(|it| it.vm == *name);
        match offer.map(|offer| offer.ticket) {
            Some(Some(ticket)) => {
                self.moves.live.handing = Some((name.clone(), ticket, false));
                self.out.push(Effect::HandVm { vm: name.clone(), ticket });
                false
            }
            Some(None) => true,
            None => now.since(since) >= RECEIVE_MS,
        }
    }
}
