// SPDX-License-Identifier: Apache-2.0
//! When the wall clock may be believed. It is used for certificates and logs only; no decision
//! about data depends on it.

use rustix::time::{ClockId, Timespec, clock_settime};

/// An RTC further ahead of the floor than this is not believed (2 years).
const AHEAD_S_MAX: u64 = 2 * 365 * 24 * 3600;
/// A signed time nearer to our own than this moves nothing.
const STEP_S_MIN: u64 = 60;

/// Seconds since 1970 by the system clock.
#[must_use]
pub fn now_s() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Milliseconds since 1970 by the system clock.
#[must_use]
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Whether a clock showing `now_s` is plausible above `floor_s`.
#[must_use]
pub fn plausible(now_s: u64, floor_s: u64) -> bool {
    now_s >= floor_s && now_s - floor_s <= AHEAD_S_MAX
}

/// Sets the clock to a time that HQ signed for our nonce. Returns whether it moved.
///
/// # Errors
/// If the kernel refuses.
pub fn set(signed_s: u64) -> std::io::Result<bool> {
    if now_s().abs_diff(signed_s) < STEP_S_MIN {
        return Ok(false);
    }
    let tv_sec = i64::try_from(signed_s)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidInput, "time too large"))?;
    clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: 0 })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_floor_or_years_ahead_is_not_believed() {
        let floor = 1_800_000_000;
        assert!(!plausible(0, floor), "1970");
        assert!(!plausible(floor - 1, floor));
        assert!(plausible(floor, floor));
        assert!(!plausible(2_145_916_800, 1_800_000_000 - AHEAD_S_MAX), "2038");
        assert!(!plausible(4_070_908_800, floor), "2099");
    }
}
