// SPDX-License-Identifier: Apache-2.0
//! Planned moves: a VM goes to the other server because this one is drained, or because it is not
//! at home. A move is written down on both servers before anything is stopped, and only a healthy
//! pair makes one; VMs go one after the other.
//!
//! ```text
//!   source                                 destination
//!   writes "till to B"      ────────────>
//!                           <────────────  writes "till to B": it is able to run it
//!   hands its memory over or stops it,     has its QEMU loaded
//!   volumes secondary
//!   writes "till is B's"    ────────────>
//!                           <────────────  writes "till is B's", and starts it
//!   drops "till to B"
//! ```
//! Up to the source's second write the VM is the source's, whatever is lost: it runs it on, or
//! starts it again. From then on it is the destination's, and the source starts it only by the
//! rules of a takeover (R6). Nobody ever starts what the other may still run.

use crate::handover::Live;
use crate::peer::PeerFacts;
use crate::settle::Reason;
use crate::state::{DurableState, Millis};
use crate::vms::Vm;
use crate::{Core, DesiredVm, Mode};
use provisioning_protocol::ids::{NodeSlot, VmName};
use provisioning_protocol::peer::PeerBody;
use std::collections::BTreeMap;

/// A peer that does not agree to take a VM within this time cannot take it now ...
const AGREE_MS: u64 = 30_000;
/// ... and is asked again after this.
const PUT_OFF_MS: u64 = 300_000;

/// Where VMs are to run, beyond the home each of them has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// The server that is to run none while the other one is in sync.
    pub drained: Option<NodeSlot>,
    /// Whether VMs go back to their homes once the pair has been well for `rebalance_ms`.
    pub rebalance: bool,
}

impl Placement {
    /// Where a VM that has never run is started first.
    pub(crate) fn first(self, wish: &DesiredVm) -> NodeSlot {
        if self.drained == Some(wish.home) { wish.home.peer() } else { wish.home }
    }
}

/// What is remembered of moves while the agent runs.
#[derive(Debug, Clone, Hash, Default)]
pub(crate) struct Moves {
    pub placement: Placement,
    well_since: Option<Millis>,
    /// The move the peer has not agreed to yet, and since when.
    asked: Option<(VmName, Millis)>,
    put_off: BTreeMap<VmName, Millis>,
    pub live: Live,
}

impl Moves {
    /// What HQ says anew is tried anew.
    pub fn place(&mut self, placement: Placement) {
        if self.placement != placement {
            self.put_off.clear();
        }
        self.placement = placement;
    }
}

impl Core {
    pub(crate) fn track_moves(&mut self) {
        let now = self.now;
        let well = self.facts().is_some_and(|peer| self.well_paired(&peer));
        self.moves.well_since = well.then(|| self.moves.well_since.unwrap_or(now));
        self.moves.put_off.retain(|_, until| now < *until);
    }

    /// A healthy pair with every disk up to date, and nobody about to leave it.
    fn well_paired(&self, peer: &PeerFacts) -> bool {
        self.mode == Mode::Pair
            && self.pair_confirmed()
            && !self.claimed
            && !peer.claimed
            && !self.giving_way()
            && peer.link_up
            && peer.disks_up_to_date
            && self.disks_up_to_date()
            && self.peer_disks_up_to_date()
    }

    /// The next write of a move, if one is due.
    pub(crate) fn move_vm(&mut self, peer: Option<PeerFacts>) -> bool {
        if !peer.is_some_and(|peer| self.well_paired(&peer)) {
            return false;
        }
        let Some(body) = self.peer.body(self.now, self.config.heard_ms).cloned() else {
            return false;
        };
        let next = self
            .take_given(&body)
            .or_else(|| self.end_move(&body))
            .or_else(|| self.give(&body))
            .or_else(|| self.agree_to_move(&body))
            .or_else(|| self.begin_move(&body));
        let Some(state) = next else { return false };
        self.persist(state, Reason::Note);
        true
    }

    /// What the peer has given away for good is this server's.
    fn take_given(&mut self, body: &PeerBody) -> Option<DurableState> {
        let me = self.me();
        let given = |name: &&VmName| {
            body.moves.get(*name) == Some(&me)
                && body.owners.get(*name) == Some(&me)
                && self.durable.owners.get(*name) == Some(&me.peer())
        };
        let name = body.moves.keys().find(given)?.clone();
        let mut state = self.durable.clone();
        state.owners.insert(name.clone(), me);
        state.moves.remove(&name);
        self.moves.live.take(&name, body);
        let how = if self.moves.live.resumes(&name) { "goes on" } else { "starts" };
        self.report("moved", format!("{name} has stopped on server {}; it {how} here.", me.peer()));
        Some(state)
    }

    /// Drops what is done, no longer wanted, or not agreed to in time.
    fn end_move(&mut self, body: &PeerBody) -> Option<DurableState> {
        let all: Vec<(VmName, NodeSlot)> =
            self.durable.moves.iter().map(|(name, to)| (name.clone(), *to)).collect();
        let (name, _) = all.into_iter().find(|(name, to)| self.is_over(body, name, *to))?;
        self.moves.asked = None;
        let mut state = self.durable.clone();
        state.moves.remove(&name);
        Some(state)
    }

    fn is_over(&mut self, body: &PeerBody, name: &VmName, to: NodeSlot) -> bool {
        let me = self.me();
        let owner = self.durable.owners.get(name).copied();
        if to == me {
            return owner == Some(me) || body.moves.get(name) != Some(&me);
        }
        if owner != Some(me) {
            return owner.is_none() || body.owners.get(name) == Some(&to);
        }
        if !self.is_away(name) && !self.moves.live.has_handed(name) {
            self.report("move_ended", format!("{name} stays on this server."));
            return true;
        }
        if body.moves.get(name) == Some(&to) {
            self.moves.asked = None;
            return false;
        }
        self.not_agreed(name, to)
    }

    fn not_agreed(&mut self, name: &VmName, to: NodeSlot) -> bool {
        let now = self.now;
        let asked = self.moves.asked.take().filter(|(asked, _)| asked == name);
        let (_, since) = asked.unwrap_or_else(|| (name.clone(), now));
        if now.since(since) < AGREE_MS {
            self.moves.asked = Some((name.clone(), since));
            return false;
        }
        self.moves.put_off.insert(name.clone(), Millis(now.0 + PUT_OFF_MS));
        self.report("move_ended", format!("{name} stays here: server {to} cannot take it now."));
        true
    }

    /// The VM has stopped and its volumes are secondary: now it is the peer's.
    fn give(&mut self, body: &PeerBody) -> Option<DurableState> {
        let to = self.me().peer();
        let gone = |name: &&VmName| {
            self.agreed_to_leave(body, name) && !self.vms.get(name).is_some_and(Vm::here)
        };
        let name = self.durable.moves.keys().find(gone)?.clone();
        let mut state = self.durable.clone();
        state.owners.insert(name.clone(), to);
        let how = if self.moves.live.has_handed(&name) { "goes on" } else { "starts" };
        self.report("given", format!("{name} has stopped here; it {how} on server {to}."));
        Some(state)
    }

    /// The peer wants to hand a VM over, and it can run here.
    fn agree_to_move(&mut self, body: &PeerBody) -> Option<DurableState> {
        let me = self.me();
        if self.moves.placement.drained == Some(me) {
            return None;
        }
        let offered = |name: &&VmName| {
            body.moves.get(*name) == Some(&me)
                && body.owners.get(*name) == Some(&me.peer())
                && self.durable.owners.get(*name) == Some(&me.peer())
                && !self.durable.moves.contains_key(*name)
                && self.vms.get(name).is_some_and(Vm::startable)
        };
        let name = body.moves.keys().find(offered)?.clone();
        let mut state = self.durable.clone();
        state.moves.insert(name, me);
        Some(state)
    }

    fn begin_move(&mut self, body: &PeerBody) -> Option<DurableState> {
        if !self.durable.moves.is_empty() || !body.moves.is_empty() || !self.move_is_due() {
            return None;
        }
        let (me, to) = (self.me(), self.me().peer());
        let due = |name: &&VmName| {
            self.durable.owners.get(*name) == Some(&me)
                && !self.moves.put_off.contains_key(*name)
                && self.vms.get(name).is_some_and(Vm::ready)
                && self.is_away(name)
        };
        let name = self.durable.owners.keys().find(due)?.clone();
        let why = match self.moves.placement.drained {
            Some(_) => "this server is drained",
            None => "that is its home",
        };
        self.report("move", format!("{name} is to go to server {to}: {why}."));
        self.moves.asked = Some((name.clone(), self.now));
        let mut state = self.durable.clone();
        state.moves.insert(name, to);
        Some(state)
    }

    /// A drain begins at once; homes are restored after the pair has been well for long.
    fn move_is_due(&self) -> bool {
        let well_ms = self.moves.well_since.map_or(0, |since| self.now.since(since));
        let drained = self.moves.placement.drained == Some(self.me());
        drained || well_ms >= self.config.rebalance_ms
    }

    /// Whether a VM of this server's is to be on the other one.
    fn is_away(&self, name: &VmName) -> bool {
        let Some(wish) = self.vms.get(name).and_then(Vm::wish) else { return false };
        let Placement { drained, rebalance } = self.moves.placement;
        match drained {
            Some(slot) => slot == self.me(),
            None => rebalance && wish.home != self.me(),
        }
    }

    fn agreed_to_leave(&self, body: &PeerBody, name: &VmName) -> bool {
        let to = self.me().peer();
        self.durable.moves.get(name) == Some(&to)
            && body.moves.get(name) == Some(&to)
            && self.durable.owners.get(name) == Some(&self.me())
    }

    /// Whether a VM is this server's to run: on disk, not about to be given away, and not being
    /// stopped for a move. Without the pair a move that has not gone through is none.
    pub(crate) fn is_mine(&self, name: &VmName) -> bool {
        let me = self.me();
        let own = |state: &DurableState| state.owners.get(name) == Some(&me);
        own(&self.durable)
            && self.pending.as_ref().is_none_or(|next| own(&next.state))
            && !self.is_leaving(name)
    }

    /// Whether both have it on disk that a VM leaves this server.
    pub(crate) fn is_leaving(&self, name: &VmName) -> bool {
        self.mode == Mode::Pair
            && self
                .peer
                .body(self.now, self.config.heard_ms)
                .is_some_and(|body| self.agreed_to_leave(body, name))
    }

    /// What a person should know of a drain.
    pub(crate) fn drain_problem(&self) -> Option<String> {
        let me = self.me();
        let left = self.durable.owners.values().any(|owner| *owner == me);
        let waits = self.moves.placement.drained == Some(me) && left;
        (waits && self.moves.well_since.is_none()).then(|| {
            format!(
                "Server {me} is to be drained, but its VMs stay: the other server is not in sync."
            )
        })
    }

    /// Where VMs are and go, if it is not the usual.
    pub(crate) fn placement_cause(&self) -> String {
        if let Some((name, to)) = self.durable.moves.iter().next() {
            return format!(" {name} is moving to server {to}.");
        }
        let Placement { drained, rebalance } = self.moves.placement;
        let away = |(name, owner): (&VmName, &NodeSlot)| {
            let wish = self.vms.get(name).and_then(Vm::wish);
            wish.is_some_and(|wish| wish.home != *owner)
        };
        match drained {
            Some(slot) if self.durable.owners.values().any(|owner| *owner == slot) => {
                format!(" Server {slot} is being drained.")
            }
            Some(slot) => format!(" Server {slot} is drained."),
            None if rebalance && self.durable.owners.iter().any(away) => format!(
                " VMs go back to their home servers after {} minutes without trouble.",
                self.config.rebalance_ms / 60_000
            ),
            None => String::new(),
        }
    }
}
