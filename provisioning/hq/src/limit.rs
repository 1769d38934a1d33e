// SPDX-License-Identifier: Apache-2.0
//! Rate limits per source address: a fixed window, a bounded table.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Sources remembered at once; beyond it the oldest windows are dropped.
const SOURCES_MAX: usize = 10_000;

/// At most `per_window` passes for each source in each window.
#[derive(Debug)]
pub struct Limiter {
    per_window: u32,
    window_ms: i64,
    seen: Mutex<HashMap<IpAddr, (i64, u32)>>,
}

impl Limiter {
    /// A limiter of `per_window` in `window_ms`.
    #[must_use]
    pub fn new(per_window: u32, window_ms: i64) -> Self {
        Self { per_window, window_ms, seen: Mutex::default() }
    }

    /// Counts one pass; `Err` holds the seconds to wait.
    ///
    /// # Errors
    /// The seconds until the window ends when the source has used it up.
    pub fn pass(&self, source: IpAddr, now_ms: i64) -> Result<(), u32> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SOURCES_MAX && !seen.contains_key(&source) {
            seen.retain(|_, (start, _)| now_ms - *start < self.window_ms);
            if seen.len() >= SOURCES_MAX {
                return Err(wait_s(self.window_ms));
            }
        }
        let entry = seen.entry(source).or_insert((now_ms, 0));
        if now_ms - entry.0 >= self.window_ms {
            *entry = (now_ms, 0);
        }
        if entry.1 >= self.per_window {
            return Err(wait_s(self.window_ms - (now_ms - entry.0)));
        }
        entry.1 += 1;
        Ok(())
    }

    /// Whether the source has used its window up, without counting.
    #[must_use]
    pub fn exhausted(&self, source: IpAddr, now_ms: i64) -> Option<u32> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, count) = seen.get(&source).copied()?;
        (count >= self.per_window && now_ms - start < self.window_ms)
            .then(|| wait_s(self.window_ms - (now_ms - start)))
    }
}

fn wait_s(ms: i64) -> u32 {
    u32::try_from(ms.max(0) / 1000 + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_stopped_at_its_limit_and_let_in_after_the_window() {
        let limiter = Limiter::new(2, 1000);
        let source = IpAddr::from([127, 0, 0, 1]);
        assert!(limiter.pass(source, 0).is_ok());
        assert!(limiter.pass(source, 10).is_ok());
        assert_eq!(limiter.pass(source, 20), Err(1));
        assert!(limiter.pass(IpAddr::from([127, 0, 0, 2]), 20).is_ok(), "another source is free");
        assert!(limiter.pass(source, 1000).is_ok());
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let limiter = Limiter::new(1, 1000);
        for n in 0..u32::try_from(SOURCES_MAX).expect("fits") {
            assert!(limiter.pass(IpAddr::from(n.to_be_bytes()), 0).is_ok());
        }
        assert!(limiter.pass(IpAddr::from([255, 0, 0, 1]), 1).is_err());
        assert!(limiter.pass(IpAddr::from([255, 0, 0, 1]), 1001).is_ok());
    }
}
