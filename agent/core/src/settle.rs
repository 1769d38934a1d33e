// SPDX-License-Identifier: Apache-2.0
//! Every change of what is on disk: at most one under way, and nothing rests on it before it is
//! there. While one is under way this server acts on the weaker of the two states.

use crate::effect::Effect;
use crate::local::with_tie;
use crate::peer::PeerFacts;
use crate::state::{DurableState, WitnessMark};
use crate::{Core, Disk, Mode};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use std::collections::BTreeSet;

/// Why the state changes; for the flight recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The witness granted it.
    Granted,
    /// The tie-break lies on this server.
    Held,
    /// An operator says that the peer is off.
    Declared,
    /// An operator wants to go on with older data.
    Restored,
    /// An operator wants the peer's data to count.
    GaveUp,
    /// The peer has given up its vote.
    Kept,
    /// The peer or the witness is ahead.
    Lost,
    /// By agreement the peer goes on.
    Yielded,
    /// Both in sync (again), this server first.
    Joined,
    /// Both in sync (again), after the peer.
    Followed,
    /// The peer's VMs are taken over.
    TookOver,
    /// The tie-break goes elsewhere.
    MovedTie,
    /// Owner entries, marks and flags; neither epoch nor votes.
    Note,
}

/// A change under way.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Pending {
    pub token: u64,
    pub state: DurableState,
    pub reason: Reason,
}

/// A peer that says SOLO at a lower epoch is believed after this long (a late datagram is not).
const OLD_SOLO_MS: u64 = 3_000;
/// An own disk that fails under a healthy link costs the vote after this long.
const DISK_FAILED_MS: u64 = 1_000;

impl Core {
    pub(crate) fn persist(&mut self, state: DurableState, reason: Reason) {
        assert!(self.pending.is_none(), "one change at a time");
        self.next_token += 1;
        let token = self.next_token;
        self.out.push(Effect::Persist { token, state: Box::new(state.clone()) });
        self.pending = Some(Pending { token, state, reason });
    }

    pub(crate) fn persisted(&mut self, token: u64) {
        let Some(pending) = self.pending.take_if(|pending| pending.token == token) else {
            return;
        };
        if pending.state.epoch != self.durable.epoch {
            self.claimed = false;
            self.yields.forget_plan();
        }
        self.durable = pending.state;
        self.choose_witness();
        if matches!(pending.reason, Reason::Granted | Reason::Held) {
            self.note_departure();
        }
        match pending.reason {
            Reason::Yielded => self.yields.start_outdate(),
            Reason::Granted
            | Reason::Held
            | Reason::Declared
            | Reason::Restored
            | Reason::Kept
            | Reason::Joined
            | Reason::Followed
            | Reason::MovedTie => self.yields.forget(),
            Reason::Lost | Reason::GaveUp | Reason::TookOver | Reason::Note => {}
        }
        self.report_settled(pending.reason);
    }

    /// Decides on the next change, if none is under way.
    pub(crate) fn settle(&mut self) {
        if self.pending.is_some() || self.mode == Mode::Boot || self.reset {
            return;
        }
        let peer = self.facts();
        let _ = self.give_up_vote()
            || self.lose(peer)
            || self.keep(peer)
            || self.follow(peer)
            || self.join(peer)
            || self.accept_grant()
            || self.go_on_as_holder()
            || self.go_on_as_declared()
            || self.go_on_as_restored()
            || self.yield_to_peer(peer)
            || self.take_over(peer)
            || self.latch_peer_off()
            || self.move_tie(peer)
            || self.move_vm(peer)
            || self.note(peer);
    }

    pub(crate) fn base(&self, epoch: Epoch, in_sync: BTreeSet<NodeSlot>) -> DurableState {
        let solo = in_sync.len() == 1 && in_sync.contains(&self.me());
        let last_seen =
            self.witness.trusted(&self.durable).map(WitnessMark::of).or(self.durable.last_seen);
        DurableState {
            epoch,
            in_sync,
            solo,
            last_seen,
            override_: false,
            fenced: false,
            ..self.durable.clone()
        }
    }

    pub(crate) fn alone(&self) -> BTreeSet<NodeSlot> {
        [self.me()].into()
    }

    /// One above everything known here or at a witness.
    pub(crate) fn next_epoch(&self) -> Epoch {
        let mine = self.durable.epoch;
        self.witness.epoch_seen(mine).max(self.spare.epoch_seen(mine)).max(mine).next()
    }

    fn other(&self) -> BTreeSet<NodeSlot> {
        [self.me().peer()].into()
    }

    /// R3: someone is ahead, and I am not in it.
    fn lose(&mut self, peer: Option<PeerFacts>) -> bool {
        if !self.durable.votes() {
            return false;
        }
        let Some(epoch) = self.lost_to_peer(peer).or_else(|| self.lost_by_record()) else {
            return false;
        };
        let epoch = epoch.max(self.durable.epoch);
        let state = DurableState { peer_watchdog: false, ..self.base(epoch, self.other()) };
        self.persist(state, Reason::Lost);
        true
    }

    fn lost_to_peer(&self, peer: Option<PeerFacts>) -> Option<Epoch> {
        let peer = peer.filter(|peer| peer.solo && peer.votes)?;
        let mine = self.durable.epoch;
        let ahead = if self.durable.solo {
            peer.epoch > mine
        } else {
            peer.epoch >= mine || (peer.mutual && peer.solo_ms >= OLD_SOLO_MS)
        };
        ahead.then_some(peer.epoch)
    }

    fn lost_by_record(&self) -> Option<Epoch> {
        let record = self.witness.trusted(&self.durable)?;
        let mine = self.durable.epoch;
        let ahead = record.epoch > mine || (record.epoch == mine && !self.durable.solo);
        let out = !record.in_sync.contains(&self.me());
        (ahead && out && !self.was_up).then_some(record.epoch)
    }

    /// The peer has durably given up its vote in my favour: I may go on without a witness. Not
    /// if it could still take up a newer offer of mine.
    fn keep(&mut self, peer: Option<PeerFacts>) -> bool {
        let Some(peer) = peer.filter(PeerFacts::yielded) else { return false };
        let can = self.durable.paired()
            && !self.durable.solo
            && peer.epoch >= self.durable.epoch
            && self.may_go_alone()
            && !(self.was_up && self.peer_disks_up_to_date());
        if can {
            let epoch = peer.epoch.max(self.durable.epoch.next());
            self.persist(self.base(epoch, self.alone()), Reason::Kept);
        }
        can
    }

    /// My disks are whole: newest, or not known to be older (cold) while I have a vote.
    pub(crate) fn may_go_alone(&self) -> bool {
        self.link.is_some_and(|link| {
            !link.split_brain && (link.volumes == 0 || link.mine >= Disk::Consistent)
        })
    }

    /// Connected, everything up to date on both sides: nothing stands in the way of a pair.
    fn joinable(&self) -> bool {
        self.was_up
            && !self.giving_way()
            && self.disks_up_to_date()
            && self.peer_disks_up_to_date()
            && self.link.is_some_and(|link| !link.split_brain)
    }

    /// R4, second half: the peer has the pair on disk at a newer epoch; so shall I.
    fn follow(&mut self, peer: Option<PeerFacts>) -> bool {
        let Some(peer) = peer else { return false };
        let can = peer.paired()
            && peer.epoch > self.durable.epoch
            && !self.durable.solo
            && self.joinable()
            && peer.at >= self.link_up_since;
        if can {
            let mut state = self.base(peer.epoch, NodeSlot::BOTH.into());
            state = with_tie(state, peer.tie);
            state.peer_watchdog = peer.watchdog_armed;
            if let Some(body) = self.peer.body(self.now, self.config.heard_ms) {
                state.owners.clone_from(&body.owners);
                state.moves.clear();
            }
            self.persist(state, Reason::Followed);
        }
        can
    }

    /// R4, first half: who has more to lose goes first, so that a vote is gained only after the
    /// right to go on without it is gone.
    fn join(&mut self, peer: Option<PeerFacts>) -> bool {
        let Some(peer) = peer else { return false };
        // An answer 7 still on its way to the kernel must not outlive the grant behind it.
        let ready = self.joinable()
            && !self.flap_guarded()
            && (!self.durable.solo || self.helpers.is_empty())
            && peer.mutual
            && peer.link_up
            && peer.disks_up_to_date
            && peer.at >= self.link_up_since;
        if !ready || !self.goes_first(&peer) || !self.join_needed(&peer) {
            return false;
        }
        let epoch = self.next_epoch().max(peer.epoch.next());
        let state = self.base(epoch, NodeSlot::BOTH.into());
        let tie = self.joined_tie(&peer);
        let state = DurableState { peer_watchdog: peer.watchdog_armed, ..with_tie(state, tie) };
        self.persist(state, Reason::Joined);
        true
    }

    fn goes_first(&self, peer: &PeerFacts) -> bool {
        let mine = (self.durable.solo, self.durable.votes(), self.me() == NodeSlot::A);
        let theirs = (peer.solo, peer.votes, self.me() == NodeSlot::B);
        !(self.durable.solo && peer.solo) && mine > theirs
    }

    fn join_needed(&self, peer: &PeerFacts) -> bool {
        let mine = self.durable.epoch;
        if !self.durable.paired() || self.durable.solo {
            return true;
        }
        if peer.epoch != mine {
            // A peer behind follows by itself; one ahead without the pair needs a newer epoch.
            return peer.epoch > mine;
        }
        !peer.paired()
            || peer.tie != self.durable.tie
            || self.claimed
            || peer.claimed
            || self.record_contradicts()
    }

    /// The witness stands at my epoch or above with something else than this pair: a late grant.
    fn record_contradicts(&self) -> bool {
        let mine = self.durable.epoch;
        self.witness.record().is_some_and(|record| {
            record.epoch == self.witness.epoch_seen(mine)
                && record.epoch >= mine
                && !self.record_is_this_pair()
        })
    }

    pub(crate) fn record_is_this_pair(&self) -> bool {
        self.witness.record().is_some_and(|record| {
            record.epoch == self.durable.epoch
                && record.in_sync == self.durable.in_sync
                && record.in_sync.len() == 2
                && record.winner.is_none()
        })
    }

    /// R2: a grant counts while nothing has changed since it was asked for, and the link is
    /// still down.
    fn accept_grant(&mut self) -> bool {
        let Some(grant) = self.witness.grant.take() else { return false };
        let good = grant.base == self.durable.epoch
            && self.durable.paired()
            && !self.durable.solo
            && !self.was_up
            && self.may_go_alone();
        if good {
            let mut state = self.base(grant.epoch, self.alone());
            state.last_seen = Some(grant.mark);
            self.persist(state, Reason::Granted);
        }
        good
    }

    /// R1: give up my vote, because the peer asks for it with good reason, because I decided so,
    /// or because my disk has failed under a healthy link.
    fn yield_to_peer(&mut self, peer: Option<PeerFacts>) -> bool {
        let Some(peer) = peer else { return false };
        if !self.durable.paired() || self.durable.solo || !peer.paired() {
            return false;
        }
        let Some(epoch) = self.yield_epoch(&peer) else { return false };
        let state = self.base(epoch, self.other());
        self.persist(state, Reason::Yielded);
        true
    }

    /// Two above all that is known: clear of any claim at the present epoch.
    pub(crate) fn yield_target(&self, peer: &PeerFacts) -> Epoch {
        self.witness.epoch_seen(self.durable.epoch).max(peer.epoch).next().next()
    }

    /// Whether my disk has failed while the link and the peer's disk are well.
    pub(crate) fn disk_failed(&self) -> bool {
        self.mode == Mode::Pair
            && self.was_up
            && self.now.since(self.link_up_since) >= DISK_FAILED_MS
            && self.peer_disks_up_to_date()
            && self.link.is_some_and(|link| link.volumes > 0 && link.mine < Disk::Consistent)
    }

    /// Small things: witness mark, watchdog flag, owner table.
    fn note(&mut self, peer: Option<PeerFacts>) -> bool {
        let seen = self.mark_worth_keeping().then(|| self.witness.record().map(WitnessMark::of));
        let last_seen = seen.flatten().or(self.durable.last_seen);
        let mut peer_watchdog = self.durable.peer_watchdog;
        let mut owners = None;
        if let Some(peer) = peer.filter(|_| self.mode == Mode::Pair && self.pair_confirmed()) {
            peer_watchdog = peer.watchdog_armed;
            owners = self.better_owners();
        }
        let changed = owners.is_some()
            || last_seen != self.durable.last_seen
            || peer_watchdog != self.durable.peer_watchdog;
        if changed {
            let mut state = DurableState { last_seen, peer_watchdog, ..self.durable.clone() };
            state.owners = owners.unwrap_or(state.owners);
            self.persist(state, Reason::Note);
        }
        changed
    }

    /// This pair's own record makes the witness believed anew (R10: both registered again).
    fn mark_worth_keeping(&self) -> bool {
        // Both on this tie-break: or the other could still claim elsewhere.
        let one_tie = self.facts().is_some_and(|peer| peer.tie == self.durable.tie);
        let confirmed = self.mode == Mode::Pair && self.pair_confirmed() && one_tie;
        (confirmed && self.record_is_this_pair())
            || (self.mode == Mode::Solo && self.witness.trusted(&self.durable).is_some())
    }
}
