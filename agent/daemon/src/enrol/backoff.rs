// SPDX-License-Identifier: Apache-2.0
//! How long to wait before HQ is asked again: quick at first, then about five minutes, for ever.

use aws_lc_rs::rand;
use std::time::Duration;

/// First waits, seconds: a server whose LAN comes up late must not lose minutes.
const FIRST_S: [u64; 6] = [1, 2, 5, 10, 30, 60];
const THEN_S: u64 = 300;

/// A count of failures in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: usize,
    limit_s: Option<u64>,
}

impl Backoff {
    /// A schedule that never waits longer than `limit_s` (before jitter).
    #[must_use]
    pub fn capped(limit_s: u64) -> Self {
        Self { failures: 0, limit_s: Some(limit_s) }
    }

    /// The next wait, with ±20 % of jitter so that a fleet does not come back at once.
    pub fn next_wait(&mut self) -> Duration {
        let base = FIRST_S.get(self.failures).copied().unwrap_or(THEN_S);
        self.failures = self.failures.saturating_add(1);
        jitter(base.min(self.limit_s.unwrap_or(u64::MAX)) * 1000)
    }

    /// Starts from the beginning.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `millis` ± 20 %.
#[must_use]
pub fn jitter(millis: u64) -> Duration {
    let mut byte = [0u8; 2];
    // Without randomness the wait is merely unjittered.
    let part =
        if rand::fill(&mut byte).is_ok() { u64::from(u16::from_be_bytes(byte)) } else { 32768 };
    Duration::from_millis(millis * 4 / 5 + millis * 2 / 5 * part / 65536)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_stay_within_a_fifth() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> =
            (0..20).map(|_| u64::try_from(backoff.next_wait().as_millis()).unwrap()).collect();
        assert!((800..=1200).contains(&waits[0]), "{waits:?}");
        assert!(waits[6..].iter().all(|w| (240_000..=360_000).contains(w)), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_secs(2));
    }

    #[test]
    fn waits_differ_between_servers() {
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| jitter(300_000)).collect();
        assert!(waits.len() > 15);
    }
}
