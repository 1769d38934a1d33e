// SPDX-License-Identifier: Apache-2.0
//! When to pet: pure, the clock is an argument (milliseconds since boot).

use std::time::Duration;

/// Shortest and longest lease an agent may ask for.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
/// How long after the hardware should have fired the second net is used.
pub const SECOND_NET: Duration = Duration::from_secs(2);
/// Between two steps of a server that hung there is a pause at least this long ...
const STILL_MS: u64 = 2_000;
/// ... and an agent started within this long after it knows neither of the pause nor what was
/// missed in it: it is not believed for so long. (One that lived through it keeps still itself.)
const DOUBT_MS: u64 = 3_000;

/// Where the keeper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody depends on a reset: pet.
    Idle,
    /// Pet until the lease ends.
    Armed {
        /// Length of the lease.
        lease_ms: u64,
        /// When it ends unless it is renewed.
        until_ms: u64,
    },
    /// The lease ended: nothing brings this back but a reset.
    Expired {
        /// When it ended.
        at_ms: u64,
    },
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Pet the device.
    Pet,
    /// Leave it alone: it shall fire.
    Hold,
    /// It should have fired by now: reboot by other means.
    Reboot,
}

/// Decides when to pet.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Keeper {
    state: State,
    /// How long the hardware waits after the last pet.
    timeout_ms: u64,
    stepped_ms: u64,
    doubt_until_ms: u64,
    /// An agent started while in doubt.
    started_late: bool,
}

impl Keeper {
    /// Starts from a state, which an earlier process may have left.
    #[must_use]
    pub fn new(state: State, timeout_ms: u64) -> Self {
        Self { state, timeout_ms, stepped_ms: 0, doubt_until_ms: 0, started_late: false }
    }

    /// The state as of now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Moves the state along and tells what to do.
    pub fn step(&mut self, now_ms: u64) -> Action {
        if now_ms.saturating_sub(self.stepped_ms) >= STILL_MS {
            self.doubt_until_ms = now_ms.saturating_add(DOUBT_MS);
        }
        self.stepped_ms = now_ms;
        if let State::Armed { until_ms, .. } = self.state
            && now_ms >= until_ms
        {
            self.state = State::Expired { at_ms: until_ms };
        }
        let State::Expired { at_ms } = self.state else { return Action::Pet };
        let net_ms = u64::try_from(SECOND_NET.as_millis()).unwrap_or(u64::MAX);
        if now_ms >= at_ms.saturating_add(self.timeout_ms).saturating_add(net_ms) {
            Action::Reboot
        } else {
            Action::Hold
        }
    }

    /// Arms. An armed keeper's lease goes on as it was, or an agent that crashes again and again
    /// could stretch it without ever having said that all runs by right.
    ///
    /// # Errors
    /// In words, if the lease is out of bounds or the state is past mending.
    pub fn arm(&mut self, now_ms: u64, lease_ms: u64) -> Result<(), String> {
        if !LEASE_MS.contains(&lease_ms) {
            return Err(format!("a lease of {lease_ms} ms is out of bounds"));
        }
        self.alive(now_ms)?;
        self.started_late |= now_ms < self.doubt_until_ms;
        if self.state == State::Idle {
            self.state = State::Armed { lease_ms, until_ms: now_ms + lease_ms };
        }
        Ok(())
    }

    /// Moves the end of the lease. An agent started right after a pause of the whole server is
    /// heard only once it has had the time to find out what was missed.
    ///
    /// # Errors
    /// In words, if it is not armed or the lease ran out.
    pub fn renew(&mut self, now_ms: u64) -> Result<(), String> {
        self.alive(now_ms)?;
        match self.state {
            State::Armed { .. } if self.started_late && now_ms < self.doubt_until_ms => Ok(()),
            State::Armed { lease_ms, .. } => {
                self.started_late = false;
                self.state = State::Armed { lease_ms, until_ms: now_ms + lease_ms };
                Ok(())
            }
            _ => Err("not armed".to_owned()),
        }
    }

    /// Pets without a lease again.
    ///
    /// # Errors
    /// In words, if the lease ran out.
    pub fn disarm(&mut self, now_ms: u64) -> Result<(), String> {
        self.alive(now_ms)?;
        self.state = State::Idle;
        Ok(())
    }

    fn alive(&mut self, now_ms: u64) -> Result<(), String> {
        self.step(now_ms);
        match self.state {
            State::Expired { .. } => Err("the lease ran out: the server will be reset".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> Keeper {
        let mut keeper = Keeper::new(State::Idle, 10_000);
        keeper.arm(1_000, 8_000).expect("armed");
        keeper
    }

    #[test]
    fn an_idle_server_is_never_reset() {
        let mut keeper = Keeper::new(State::Idle, 10_000);
        assert_eq!(keeper.step(0), Action::Pet);
        assert_eq!(keeper.step(u64::MAX), Action::Pet);
    }

    #[test]
    fn petting_ends_with_the_lease_and_the_second_net_follows_the_hardware() {
        let mut keeper = armed();
        assert_eq!(keeper.step(8_999), Action::Pet);
        assert_eq!(keeper.step(9_000), Action::Hold);
        assert_eq!(keeper.step(20_999), Action::Hold);
        assert_eq!(keeper.step(21_000), Action::Reboot);
    }

    #[test]
    fn renewing_moves_the_end() {
        let mut keeper = armed();
        keeper.renew(8_000).expect("renewed");
        assert_eq!(keeper.step(15_999), Action::Pet);
        assert_eq!(keeper.step(16_000), Action::Hold);
    }

    #[test]
    fn only_a_renewal_moves_the_end() {
        let mut keeper = armed();
        keeper.arm(8_000, 8_000).expect("still armed");
        assert_eq!(keeper.step(9_000), Action::Hold);
    }

    #[test]
    fn a_lease_that_ran_out_cannot_be_revived() {
        let mut keeper = armed();
        assert!(keeper.renew(9_000).is_err());
        assert!(keeper.arm(9_001, 8_000).is_err());
        assert!(keeper.disarm(9_002).is_err());
        assert_eq!(keeper.step(9_003), Action::Hold);
    }

    #[test]
    fn disarming_lets_an_agent_go_for_good() {
        let mut keeper = armed();
        keeper.disarm(2_000).expect("disarmed");
        assert_eq!(keeper.step(1_000_000), Action::Pet);
        assert!(keeper.renew(1_000_000).is_err(), "a renewal must not arm");
    }

    #[test]
    fn an_agent_that_lived_through_a_pause_is_heard_and_one_started_after_it_only_later() {
        let mut keeper = armed();
        assert_eq!(keeper.step(1_500), Action::Pet);
        assert_eq!(keeper.step(5_000), Action::Pet);
        keeper.renew(5_001).expect("lived through it");
        keeper.arm(5_100, 8_000).expect("armed by a new one");
        for now_ms in (5_500..8_000).step_by(500) {
            keeper.renew(now_ms).expect("taken, and changes nothing");
        }
        assert_eq!(keeper.state(), State::Armed { lease_ms: 8_000, until_ms: 13_001 });
        keeper.renew(8_000).expect("heard");
        assert_eq!(keeper.state(), State::Armed { lease_ms: 8_000, until_ms: 16_000 });
    }

    #[test]
    fn an_agent_restarted_on_a_server_that_went_on_is_heard_at_once() {
        let mut keeper = armed();
        for now_ms in (1_500..6_000).step_by(500) {
            assert_eq!(keeper.step(now_ms), Action::Pet);
        }
        keeper.arm(6_000, 8_000).expect("armed");
        keeper.renew(6_001).expect("heard");
        assert_eq!(keeper.step(14_000), Action::Pet);
    }

    #[test]
    fn absurd_leases_are_refused() {
        let mut keeper = Keeper::new(State::Idle, 10_000);
        for lease in [0, 999, 60_001, u64::MAX] {
            assert!(keeper.arm(0, lease).is_err(), "{lease}");
        }
    }
}
