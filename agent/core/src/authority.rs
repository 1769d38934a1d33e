// SPDX-License-Identifier: Apache-2.0
//! What this server may do with VMs at this moment, and the watchdog lease that vouches for it
//! (rule R11): the lease is renewed only while every vCPU here runs by right, so that a server
//! which has lost its right and cannot stop its VMs is reset within lease + watchdog time.

use crate::effect::Effect;
use crate::{Core, Mode};

/// Rights over VMs, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Authority {
    /// No vCPU may run here.
    Hold,
    /// What runs may go on; nothing is started.
    Keep,
    /// VMs that belong here are started, others stopped.
    Full,
}

/// A watchdog that does not answer is asked again after this.
const ARM_RETRY_MS: u64 = 10_000;
/// The lease (8 s) is renewed this often: each renewal is a message and a file.
const RENEW_MS: u64 = 500;
/// How long a restarted agent may take to look at its volumes.
const BLIND_MS: u64 = 2_000;
/// After a pause of its own as long as this, what an agent knows of its peer may be old ...
pub(crate) const STILL_MS: u64 = 2_000;
/// ... until it has been awake this long: DRBD notices within 2.4 s that its peer is gone.
const AWAKE_MS: u64 = 3_000;

impl Core {
    pub(crate) fn authority(&self) -> Authority {
        match self.mode {
            Mode::Solo => Authority::Full,
            Mode::Pair if self.pair_confirmed() && self.awake() => Authority::Full,
            Mode::Pair => Authority::Keep,
            Mode::Suspect if self.may_stay_frozen() => Authority::Keep,
            Mode::Boot if self.may_run_on() => Authority::Keep,
            Mode::Boot | Mode::Suspect | Mode::Loser | Mode::Wait => Authority::Hold,
        }
    }

    /// Frozen volumes: vCPUs may run on for `pause_ms` after the loss, if this boot of the agent
    /// has seen the link at all.
    fn may_stay_frozen(&self) -> bool {
        self.was_up || (self.ever_up && self.now.since(self.link_down_since) < self.config.pause_ms)
    }

    /// The agent restarted under running VMs: they go on if nothing says that they must not.
    fn may_run_on(&self) -> bool {
        self.blind() || (self.durable.solo && !self.cold) || (self.durable.votes() && self.was_up)
    }

    /// The first moments, in which the volumes have not been looked at: nothing is stopped yet,
    /// but no lease is renewed either, so that a crash loop cannot stretch them.
    fn blind(&self) -> bool {
        self.mode == Mode::Boot && self.link.is_none() && self.now.since(self.boot_at) < BLIND_MS
    }

    fn awake(&self) -> bool {
        self.woke_at.is_none_or(|at| self.now.since(at) >= AWAKE_MS)
    }

    /// The peer counts T_fence from when it lost the link, so with it lost no lease may be
    /// renewed; and right after a pause it may be lost without this server knowing.
    fn sure_of_peer(&self) -> bool {
        self.solo_in_force() || (self.was_up && self.awake())
    }

    pub(crate) fn renew_lease(&mut self) {
        let right = self.authority() != Authority::Hold && !self.blind() && self.sure_of_peer();
        let by_right = !self.vms.any_runs() || right;
        let due = self.renewed_at.is_none_or(|at| self.now.since(at) >= RENEW_MS);
        if by_right && due && self.watchdog != Some(false) {
            self.renewed_at = Some(self.now);
            self.out.push(Effect::RenewLease);
        }
    }

    /// VMs run or may be started here.
    pub(crate) fn watchdog_needed(&self) -> bool {
        match self.mode {
            Mode::Pair | Mode::Solo | Mode::Suspect | Mode::Loser => true,
            Mode::Boot | Mode::Wait => self.vms.here().next().is_some(),
        }
    }

    /// Armed while it is needed.
    pub(crate) fn drive_watchdog(&mut self) {
        let needed = self.watchdog_needed();
        let due = self.armed_at.is_none_or(|at| self.now.since(at) >= ARM_RETRY_MS);
        if needed && self.watchdog != Some(true) && due {
            self.armed_at = Some(self.now);
            self.out.push(Effect::ArmWatchdog);
        } else if !needed && self.watchdog == Some(true) && due && self.mode == Mode::Wait {
            self.armed_at = Some(self.now);
            self.out.push(Effect::DisarmWatchdog);
        }
    }
}
