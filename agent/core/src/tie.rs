// SPDX-License-Identifier: Apache-2.0
//! Where the tie-break lies (rule R5): at HQ while HQ answers; else on one of the two servers, the
//! *holder*, which may then go on alone without asking anyone. A witness on site comes before both:
//! see `local`.
//!
//! ```text
//!            HQ silent for both, pair healthy                HQ answers both, record is this pair
//!   tie=HQ ──────────────────────────────────> tie=holder ─────────────────────────────────> tie=HQ
//!            the other server writes it first                the holder writes it first
//! ```
//! The side that loses the right writes first, and the other follows: a cut in the middle leaves one
//! server able to go on alone, or none, never both.

use crate::effect::WitnessAt;
use crate::local::with_tie;
use crate::peer::PeerFacts;
use crate::settle::Reason;
use crate::state::{DurableState, Tie};
use crate::{Core, Mode};
use provisioning_protocol::ids::NodeSlot;

impl Core {
    /// The witness has not answered for so long that ties should be settled on site.
    pub(crate) fn hq_lost(&self) -> bool {
        self.witness_lost(WitnessAt::Hq)
    }

    /// The server that has more to run: a cut then leaves most VMs where they are.
    pub(crate) fn holder(&self) -> NodeSlot {
        let owners = &self.durable.owners;
        let weight = |slot| self.vms.weight(owners, slot);
        if weight(NodeSlot::B) > weight(NodeSlot::A) { NodeSlot::B } else { NodeSlot::A }
    }

    /// R5, first half; the second half is to follow the peer.
    pub(crate) fn move_tie(&mut self, peer: Option<PeerFacts>) -> bool {
        let Some(peer) = peer.filter(|peer| self.tie_may_move(peer)) else { return false };
        let to = match (self.local_move(&peer), self.durable.tie) {
            (Some((to, first)), _) if first == self.me() => to,
            (Some(_), _) => return false,
            (None, Tie::Hq) if self.hq_lost() && peer.hq_lost => Tie::Node(self.holder()),
            (None, Tie::Node(holder)) if holder == self.me() && self.hq_is_back(&peer) => Tie::Hq,
            (None, _) => return false,
        };
        if to == Tie::Node(self.me()) {
            return false;
        }
        let epoch = self.next_epoch();
        let state = with_tie(DurableState { epoch, ..self.durable.clone() }, to);
        self.persist(state, Reason::MovedTie);
        true
    }

    /// A healthy pair, agreed on where the tie-break lies, with no claim on its way to HQ.
    fn tie_may_move(&self, peer: &PeerFacts) -> bool {
        self.mode == Mode::Pair
            && self.pair_confirmed()
            && !self.claimed
            && !peer.claimed
            && peer.link_up
            && peer.tie == self.durable.tie
            && (self.durable.last_seen.is_some() || self.local_set == Some(true))
            && self.disks_up_to_date()
            && self.peer_disks_up_to_date()
    }

    fn hq_is_back(&self, peer: &PeerFacts) -> bool {
        let lately = |at| self.now.since(at) < 2 * self.config.witness_poll_ms;
        !self.hq_lost()
            && !peer.hq_lost
            && self.witness.answered_at().is_some_and(lately)
            && self.witness.trusted(&self.durable).is_some()
            && self.record_is_this_pair()
    }

    /// What a pair formed anew is to have. If the two disagree at one epoch, slot A gives up first,
    /// whatever it had.
    pub(crate) fn joined_tie(&self, peer: &PeerFacts) -> Tie {
        let apart = self.durable.paired()
            && peer.paired()
            && peer.epoch == self.durable.epoch
            && peer.tie != self.durable.tie;
        if apart { Tie::Node(self.me().peer()) } else { self.durable.tie }
    }

    /// R2 with the tie on this server: nobody is asked.
    pub(crate) fn go_on_as_holder(&mut self) -> bool {
        use crate::suspect::Block;
        let can = self.mode == Mode::Suspect
            && !self.was_up
            && self.durable.paired()
            && !self.durable.solo
            && self.claim_block() == Block::Holder
            && self.claim_due();
        if can {
            let epoch = self.next_epoch();
            self.persist(self.base(epoch, self.alone()), Reason::Held);
        }
        can
    }
}
