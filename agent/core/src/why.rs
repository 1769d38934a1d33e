// SPDX-License-Identifier: Apache-2.0
//! States and causes in words: for the console, HQ, and the flight recorder.

use crate::effect::{Cause, Effect};
use crate::local::LocalWitness;
use crate::settle::Reason;
use crate::state::Tie;
use crate::suspect::Block;
use crate::{Core, Disk, Mode};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::{Path, PeerState};
use std::collections::BTreeSet;

/// What a person may see of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: PeerState,
    /// The durable epoch.
    pub epoch: Epoch,
    /// The durable in-sync set.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Paths on which the peer is heard.
    pub paths: BTreeSet<Path>,
    /// The path replication uses.
    pub replication: Path,
    /// Why the state is what it is, and what is waited for, in one line.
    pub cause: String,
    /// What a person should look at, worst first.
    pub problems: Vec<String>,
    /// The data has diverged, and a person may give up this server's.
    pub may_give_up: bool,
}

/// What was reported last, so that a state is told once.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Told {
    mode: Option<Mode>,
    block: Option<Block>,
    fence_wait: bool,
}

impl Core {
    /// What to show.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: self.peer_state(),
            epoch: self.durable.epoch,
            in_sync: self.durable.in_sync.clone(),
            paths: self.peer.paths(self.now, self.config.heard_ms),
            replication: self.paths.current,
            cause: self.cause(),
            problems: self.problems(),
            may_give_up: self.may_give_up(),
        }
    }

    pub(crate) fn peer_state(&self) -> PeerState {
        let syncing = self.was_up && !(self.disks_up_to_date() && self.peer_disks_up_to_date());
        match self.mode {
            Mode::Boot => PeerState::Boot,
            Mode::Loser => PeerState::Loser,
            Mode::Suspect if !self.was_up && self.cold => PeerState::Wait,
            Mode::Suspect if !self.was_up => PeerState::Suspect,
            Mode::Suspect => PeerState::Resync,
            Mode::Pair | Mode::Solo | Mode::Wait if syncing => PeerState::Resync,
            Mode::Pair => PeerState::Pair,
            Mode::Solo => PeerState::Solo,
            Mode::Wait => PeerState::Wait,
        }
    }

    pub(crate) fn report(&mut self, code: &'static str, text: String) {
        self.out.push(Effect::Report { cause: Cause { code, text } });
    }

    /// Tells a person of a new state, and of a new reason to stand still.
    pub(crate) fn tell(&mut self) {
        let block = (self.mode == Mode::Suspect && !self.was_up).then(|| self.claim_block());
        let fence_wait = self.waits_for_fence();
        if self.told.mode == Some(self.mode)
            && self.told.block == block
            && self.told.fence_wait == fence_wait
        {
            return;
        }
        self.told.mode = Some(self.mode);
        self.told.block = block;
        self.told.fence_wait = fence_wait;
        let code = match self.mode {
            Mode::Boot => "boot",
            Mode::Pair => "pair",
            Mode::Suspect if self.was_up => "rejoining",
            Mode::Suspect => "link_lost",
            Mode::Solo => "alone",
            Mode::Loser => "lost",
            Mode::Wait => "wait",
        };
        self.report(code, self.cause());
    }

    /// Goes on alone, and does not know yet that the other server's VMs have stopped.
    pub(crate) fn waits_for_fence(&self) -> bool {
        self.mode == Mode::Solo && self.peer_has_vms() && !self.peer_is_fenced(self.facts())
    }

    /// A change is on disk.
    pub(crate) fn report_settled(&mut self, reason: Reason) {
        let epoch = self.durable.epoch;
        let (code, text) = match reason {
            Reason::Granted => {
                let place = self.witness_place();
                let text =
                    format!("The witness {place} let this server go on alone (epoch {epoch}).");
                ("grant", text)
            }
            Reason::Held => (
                "grant",
                format!("HQ is out of reach and this server holds the tie-break (epoch {epoch})."),
            ),
            Reason::Declared => (
                "declared",
                format!(
                    "An operator at this server declared the other one off; it goes on alone \
                     (epoch {epoch})."
                ),
            ),
            Reason::Restored => (
                "restored",
                format!(
                    "An operator had this server put back to what it held before the resync that did \
                     not end; it goes on alone with that (epoch {epoch})."
                ),
            ),
            Reason::GaveUp => (
                "giving_up",
                format!("An operator gives up what this server holds (epoch {epoch})."),
            ),
            Reason::MovedTie => ("tie", self.tie_cause()),
            Reason::Kept => (
                "grant",
                format!("The other server gave way; this one goes on alone (epoch {epoch})."),
            ),
            Reason::Lost => {
                ("lost", format!("The other server goes on; this one stops (epoch {epoch})."))
            }
            Reason::Yielded => {
                ("yielded", format!("This server gave way to the other one (epoch {epoch})."))
            }
            Reason::Joined | Reason::Followed => {
                ("joined", format!("Both servers count as in sync (epoch {epoch})."))
            }
            Reason::TookOver => (
                "takeover",
                format!("The other server's VMs have stopped; they are started here ({epoch})."),
            ),
            Reason::Note => return,
        };
        self.report(code, text);
    }

    fn cause(&self) -> String {
        match self.mode {
            Mode::Boot => "Starting: reading the disks and listening for the other server.".into(),
            Mode::Pair if self.pair_confirmed() && self.durable.tie != Tie::Hq => {
                format!("Both servers are in sync. {}", self.tie_cause())
            }
            Mode::Pair if self.pair_confirmed() => {
                format!("Both servers are in sync.{}", self.placement_cause())
            }
            Mode::Pair if self.facts().is_some() => {
                "In sync; agreeing on a new epoch with the other server.".into()
            }
            Mode::Pair => "In sync, but the other server's agent is not heard.".into(),
            Mode::Suspect if self.was_up => self.rejoin_cause(),
            Mode::Suspect => self.block_cause(self.claim_block()),
            Mode::Solo => self.solo_cause(),
            Mode::Loser => "Another server goes on; this one is releasing its VMs.".into(),
            Mode::Wait => self.wait_cause(),
        }
    }

    fn tie_cause(&self) -> String {
        match self.durable.tie {
            Tie::Hq => "The witness at HQ says who may go on alone.".into(),
            Tie::Node(slot) => {
                format!("HQ is out of reach: if they part, server {slot} goes on alone.")
            }
            Tie::Local => "The witness on site says who may go on alone.".into(),
        }
    }

    fn rejoin_cause(&self) -> String {
        let synced = self.disks_up_to_date() && self.peer_disks_up_to_date();
        let text = match (self.facts().is_some(), synced) {
            (false, _) => "Connected again; waiting to hear the other server's agent.",
            (true, false) => "Connected again; the volumes are being brought up to date.",
            (true, true) => "Connected again; agreeing on a new epoch with the other server.",
        };
        text.into()
    }

    fn block_cause(&self, block: Block) -> String {
        let place = self.witness_place();
        let text = match block {
            Block::PeerTalks => {
                "Replication is down but the other server answers: trying the other path, then \
                 one side gives way."
            }
            Block::ColdWait => {
                "Started alone: waiting for the other server before asking the witness."
            }
            Block::Disk => {
                "Frozen: this server's disks are not whole, so it may not go on alone. Bring the \
                 other server back."
            }
            Block::SplitBrain => {
                "Stopped: the data on the two servers has diverged; an operator must choose."
            }
            Block::TieElsewhere => {
                "Frozen: HQ was out of reach, so the pair had agreed that only the other server may \
                 go on alone. Bring the other server back."
            }
            Block::Holder => {
                "The other server is lost; this one holds the tie-break and goes on alone."
            }
            Block::NeverSeen => {
                "Frozen: this pair was never made known to the witness, so nobody may go on alone."
            }
            Block::Distrusted => {
                return format!(
                    "Frozen: the witness {place} was reset or restored from an older state and is \
                     not believed until both servers are connected."
                );
            }
            Block::NotInRecord => {
                "Frozen: the witness does not count this server as in sync. Bring the other \
                 server back."
            }
            Block::Asking if self.witness.unreachable() => {
                return format!(
                    "Frozen: the other server is lost and the witness {place} does not answer."
                );
            }
            Block::Asking => {
                return format!("The other server is lost; asking the witness {place}.");
            }
        };
        text.into()
    }

    fn solo_cause(&self) -> String {
        if self.flap_guarded() && self.was_up {
            return "Going on alone: the other server was lost again and again, so it is only kept \
                    up to date for now."
                .into();
        }
        if !self.peer_has_vms() {
            return "Going on alone; the other server is out of sync.".into();
        }
        let text = if self.was_up {
            "Going on alone; waiting for the other server to release its VMs."
        } else if self.bmc.usable() && !self.bmc.failed() {
            "Going on alone; the other server is being switched off by its BMC, then its VMs start \
             here."
        } else if self.durable.peer_watchdog {
            "Going on alone; the other server's VMs start here once its watchdog must have \
             stopped them."
        } else {
            "Going on alone; the other server had no armed watchdog, so its VMs wait for it or \
             for an operator."
        };
        text.into()
    }

    fn wait_cause(&self) -> String {
        let text = if self.durable.solo {
            "Started as the recorded survivor: looking for anything newer before going on."
        } else if self.durable.in_sync.is_empty() {
            "New here: waiting to form a pair with the other server."
        } else if self.was_up {
            "Connected: being brought up to date by the other server."
        } else {
            "Out of sync: waiting for the other server."
        };
        text.into()
    }

    fn problems(&self) -> Vec<String> {
        let mut list = Vec::new();
        let mut add = |yes: bool, text: &str| {
            if yes {
                list.push(text.to_owned());
            }
        };
        let link = self.link.unwrap_or_default();
        add(link.split_brain, "The data on the two servers has diverged.");
        add(
            link.volumes > 0 && link.mine < Disk::Inconsistent,
            "A disk of this server has failed or is missing.",
        );
        add(
            matches!(self.mode, Mode::Suspect | Mode::Wait | Mode::Loser) && !self.was_up,
            "This server may not run VMs now.",
        );
        add(self.mode == Mode::Solo, "No redundancy: only this server is in sync.");
        add(
            self.watchdog == Some(false) && self.watchdog_needed(),
            "No watchdog: automatic takeover from here is off.",
        );
        let place = self.witness_place();
        add(self.witness.unreachable(), &format!("The witness {place} does not answer."));
        add(
            matches!(self.local_witness(), LocalWitness::Lost) && self.durable.tie != Tie::Local,
            "The witness on site does not answer.",
        );
        let distrusted =
            self.witness.record().is_some() && self.witness.trusted(&self.durable).is_none();
        add(
            distrusted && self.durable.last_seen.is_some(),
            &format!("The witness {place} was reset or restored and is not believed yet."),
        );
        list.extend(self.drain_problem());
        list
    }
}
