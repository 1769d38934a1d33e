// SPDX-License-Identifier: Apache-2.0
//! The link is down and nobody has given anything up yet: settle it with the peer if it can be
//! reached (R1), else ask the witness (R2) or go on as the tie-holder (R5), at once or after the
//! grace of a cold start (R9).

use crate::peer::PeerFacts;
use crate::state::Tie;
use crate::witness::Question;
use crate::{Core, Mode};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::Agreement;
use provisioning_protocol::witness::WitnessSwap;

/// Who gives way, once decided (by slot A, for both).
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Yields {
    plan: Option<(NodeSlot, Epoch)>,
    /// `Outdate` is to be ordered.
    outdate: bool,
    /// `Outdate` was ordered for the vote given up.
    ordered: bool,
    /// It worked.
    outdated: bool,
    /// It is not done yet: the volumes will be disconnected under our hands.
    busy: bool,
}

impl Yields {
    pub fn forget_plan(&mut self) {
        self.plan = None;
    }

    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub fn start_outdate(&mut self) {
        *self = Self { outdate: true, busy: true, ..Self::default() };
    }

    pub fn outdate_done(&mut self, ok: bool) {
        self.busy = false;
        self.outdated = ok;
    }

    /// Whether `Outdate` is under way.
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Whether `Outdate` must be ordered now; said once.
    pub fn take_outdate(&mut self) -> bool {
        self.ordered |= self.outdate;
        std::mem::take(&mut self.outdate)
    }
}

/// Why this server neither goes on nor gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Block {
    /// The peer answers: it is settled between the two.
    PeerTalks,
    /// A start alone: the peer has time to come.
    ColdWait,
    /// My disks are not whole.
    Disk,
    /// The data of the two servers has diverged.
    SplitBrain,
    /// The tie-break lies on the other server.
    TieElsewhere,
    /// The tie-break lies here: nobody needs to be asked.
    Holder,
    /// The pair was never made known to the witness.
    NeverSeen,
    /// The witness lost its memory or was restored (R10).
    Distrusted,
    /// The witness's record does not count me in sync.
    NotInRecord,
    /// Asked, or about to ask.
    Asking,
}

impl Core {
    pub(crate) fn yield_epoch(&mut self, peer: &PeerFacts) -> Option<Epoch> {
        if self.disk_failed() {
            return Some(self.yield_target(peer));
        }
        if self.mode != Mode::Suspect || self.was_up || !peer.mutual {
            return None;
        }
        if self.me() == NodeSlot::B {
            return self.asked_to_yield();
        }
        let (who, epoch) = self.plan_yield(peer)?;
        (who == NodeSlot::A).then_some(epoch)
    }

    /// Slot B gives way only when slot A asks, so that never both do.
    fn asked_to_yield(&self) -> Option<Epoch> {
        let body = self.peer.body(self.now, self.config.heard_ms)?;
        let ask = body.agree.as_ref()?;
        let sound = !ask.durable && ask.in_sync.len() == 1 && ask.in_sync.contains(&NodeSlot::A);
        (sound && ask.epoch > self.durable.epoch).then_some(ask.epoch)
    }

    /// Slot A decides once, after the path switch had its time: the side with a bad disk gives
    /// way, else the one with less to run.
    fn plan_yield(&mut self, peer: &PeerFacts) -> Option<(NodeSlot, Epoch)> {
        let talking = self.peer.talking_since().unwrap_or(self.now);
        let since = self.link_down_since.max(self.boot_at).max(talking);
        let waited = self.now.since(since);
        let split = self.link.is_none_or(|link| link.split_brain);
        if waited < self.config.switch_ms || peer.link_up || split {
            return None;
        }
        if self.yields.plan.is_none() {
            let owners = &self.durable.owners;
            let mine = (self.disks_up_to_date(), self.vms.weight(owners, NodeSlot::A));
            let theirs = (peer.disks_up_to_date, self.vms.weight(owners, NodeSlot::B));
            let who = if mine >= theirs { NodeSlot::B } else { NodeSlot::A };
            self.yields.plan = Some((who, self.yield_target(peer)));
        }
        self.yields.plan
    }

    /// What the message says about giving way.
    pub(crate) fn agreement(&self) -> Option<Agreement> {
        let gone = !self.durable.votes() && self.durable.in_sync.len() == 1;
        if gone && self.yields.ordered {
            return Some(Agreement {
                epoch: self.durable.epoch,
                in_sync: self.durable.in_sync.clone(),
                durable: true,
                outdated: self.yields.outdated,
            });
        }
        let (who, epoch) = self.yields.plan.filter(|_| self.mode == Mode::Suspect)?;
        (who == NodeSlot::B && !self.was_up).then(|| Agreement {
            epoch,
            in_sync: [NodeSlot::A].into(),
            durable: false,
            outdated: false,
        })
    }

    /// R2 and R9 b: what keeps this server from asking the witness.
    pub(crate) fn claim_block(&self) -> Block {
        let Some(link) = self.link else { return Block::Disk };
        if link.split_brain {
            return Block::SplitBrain;
        }
        if !self.may_go_alone() {
            return Block::Disk;
        }
        let heard = self.facts();
        if heard.is_some_and(|peer| peer.mutual && (peer.votes || peer.has_me)) {
            return Block::PeerTalks;
        }
        let holder = self.durable.tie == Tie::Node(self.me());
        let wait_ms = if holder { self.config.solo_boot_ms } else { self.config.cold_boot_ms };
        if self.cold && self.now.since(self.boot_at) < wait_ms {
            return Block::ColdWait;
        }
        match self.durable.tie {
            Tie::Hq | Tie::Local => {}
            Tie::Node(_) if holder => return Block::Holder,
            Tie::Node(_) => return Block::TieElsewhere,
        }
        if self.durable.last_seen.is_none() {
            return Block::NeverSeen;
        }
        match self.witness.record() {
            Some(_) if self.witness.trusted(&self.durable).is_none() => Block::Distrusted,
            Some(record) if !record.in_sync.contains(&self.me()) => Block::NotInRecord,
            _ => Block::Asking,
        }
    }

    /// Since the loss and the silence, with a head start for the side that has more to run. A
    /// peer that can be heard and has no vote asks for nothing.
    pub(crate) fn claim_due(&self) -> bool {
        let rival = self.facts().is_none_or(|peer| peer.votes || peer.has_me);
        let owners = &self.durable.owners;
        let mine = self.vms.weight(owners, self.me());
        let theirs = self.vms.weight(owners, self.me().peer());
        let second = mine < theirs || (mine == theirs && self.me() == NodeSlot::B);
        let delay = if second && rival { self.config.claim_delay_ms } else { 0 };
        let since = self.link_down_since.max(self.peer.silent_since());
        self.now.since(since) >= delay && self.now.since(self.boot_at) >= self.config.listen_ms
    }

    pub(crate) fn drive_claim(&mut self) {
        let block = self.claim_block();
        if self.witness.claiming() && block != Block::Asking {
            self.witness.forget();
        }
        if self.witness.busy(self.now) || self.pending.is_some() || self.witness.grant.is_some() {
            return;
        }
        let epoch = self.durable.epoch;
        let record = self.witness.trusted(&self.durable);
        let stands = record
            .map_or(self.durable.last_seen.map(|seen| seen.epoch), |record| Some(record.epoch));
        match (block, stands) {
            (Block::Asking, Some(stands)) if self.claim_due() => {
                self.claimed = true;
                let swap = WitnessSwap {
                    request_id: 0,
                    by: self.me(),
                    expect_epoch: stands,
                    epoch: epoch.max(stands).next(),
                    in_sync: [self.me()].into(),
                    winner: Some(self.me()),
                };
                let ask = self.witness.ask(self.now, Question::Claim { base: epoch }, Some(swap));
                self.out.push(ask);
            }
            // The pair is newer than the record, and known to be on both disks: say so first.
            (Block::NotInRecord, Some(stands)) if stands < epoch && self.both_at == Some(epoch) => {
                self.tell_pair();
            }
            (Block::Asking, _) => {}
            _ => self.poll_witness(),
        }
    }
}
