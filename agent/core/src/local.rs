// SPDX-License-Identifier: Apache-2.0
//! Two witnesses, one at HQ and perhaps one on site, of which exactly one counts (rules R5, R10).
//!
//! Which one is the durable tie-break: `Local` or anything else. The other is only read, to know
//! whether it answers. A claim is made at the one that counts alone, and a change of witness
//! forgets the mark of the old one: nobody may go on alone by the new one before it has recorded
//! the pair as it stands, with both servers on the new tie-break (R10's registration). So a record
//! left behind at either place is worth nothing, however old.
//!
//! ```text
//!             both hear the witness on site                both lost it, both hear HQ
//!   HQ, A, B ───────────────────────────────> on site ──────────────────────────────> HQ
//!                                                └──── both lost it, HQ silent ─────> A or B
//! ```

use crate::effect::WitnessAt;
use crate::peer::PeerFacts;
use crate::state::{DurableState, Tie};
use crate::witness::{Question, WitnessView};
use crate::{Core, Mode};
use provisioning_protocol::ids::NodeSlot;
pub use provisioning_protocol::peer::LocalWitness;

/// The witness that counts while the tie-break is this.
pub(crate) fn place(tie: Tie) -> WitnessAt {
    if tie == Tie::Local { WitnessAt::Local } else { WitnessAt::Hq }
}

/// Gives a state another tie-break. Another witness is believed only when it has the pair on record.
pub(crate) fn with_tie(state: DurableState, tie: Tie) -> DurableState {
    let same = place(tie) == place(state.tie);
    let last_seen = state.last_seen.filter(|_| same);
    DurableState { tie, last_seen, ..state }
}

impl Core {
    fn view(&self, at: WitnessAt) -> &WitnessView {
        if self.witness.at() == at { &self.witness } else { &self.spare }
    }

    /// The view of the witness that counts comes first; open questions at either are void.
    pub(crate) fn choose_witness(&mut self) {
        if self.witness.at() != place(self.durable.tie) {
            std::mem::swap(&mut self.witness, &mut self.spare);
            self.witness.drop_all();
            self.spare.drop_all();
        }
    }

    /// Keeps an eye on the other witness.
    pub(crate) fn drive_spare(&mut self) {
        // A read that is lost is only dropped.
        let _ = self.spare.retry(self.now, self.config.witness_retry_ms);
        let wanted = self.spare.at() == WitnessAt::Hq || self.local_set == Some(true);
        let every = self.config.witness_poll_ms;
        let due = self.spare.answered_at().is_none_or(|at| self.now.since(at) >= every);
        if wanted && due && self.mode != Mode::Boot && !self.spare.busy(self.now) {
            let ask = self.spare.ask(self.now, Question::Read, None);
            self.out.push(ask);
        }
    }

    /// The witness there has not answered for so long that the tie-break should leave it.
    pub(crate) fn witness_lost(&self, at: WitnessAt) -> bool {
        let view = self.view(at);
        let since = view.answered_at().unwrap_or(self.boot_at);
        view.unreachable() && self.now.since(since) >= self.config.tie_ms
    }

    fn witness_answers(&self, at: WitnessAt) -> bool {
        let lately = |at| self.now.since(at) < 2 * self.config.witness_poll_ms;
        !self.witness_lost(at) && self.view(at).answered_at().is_some_and(lately)
    }

    /// What this server knows of a witness on site.
    pub(crate) fn local_witness(&self) -> LocalWitness {
        match self.local_set {
            Some(false) => LocalWitness::None,
            Some(true) if self.witness_lost(WitnessAt::Local) => LocalWitness::Lost,
            Some(true) if self.witness_answers(WitnessAt::Local) => LocalWitness::Heard,
            Some(true) | None => LocalWitness::Unsure,
        }
    }

    /// Where the tie-break should go, and who writes it first, as far as a witness on site matters.
    pub(crate) fn local_move(&self, peer: &PeerFacts) -> Option<(Tie, NodeSlot)> {
        let (mine, theirs) = (self.local_witness(), peer.local);
        let heard = mine == LocalWitness::Heard && theirs == LocalWitness::Heard;
        match self.durable.tie {
            Tie::Hq if heard => Some((Tie::Local, NodeSlot::A)),
            Tie::Node(holder) if heard => Some((Tie::Local, holder)),
            Tie::Local if mine.is_gone() && theirs.is_gone() => {
                let hq = self.witness_answers(WitnessAt::Hq) && !peer.hq_lost;
                let holder = self.holder();
                Some(if hq { (Tie::Hq, NodeSlot::A) } else { (Tie::Node(holder), holder.peer()) })
            }
            Tie::Hq | Tie::Node(_) | Tie::Local => None,
        }
    }

    /// Where the witness that counts stands, for a person.
    pub(crate) fn witness_place(&self) -> &'static str {
        match self.witness.at() {
            WitnessAt::Hq => "at HQ",
            WitnessAt::Local => "on site",
        }
    }
}
