// SPDX-License-Identifier: Apache-2.0
//! What a datagram must be before the core hears of it.

use provisioning_protocol::PROTOCOL_VERSION;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::peer::{PEER_BYTES_MAX, PeerDatagram};
use std::collections::VecDeque;
use thiserror::Error;

/// Earlier boots of the peer that are remembered, to drop what comes late from them.
const RETIRED_MAX: usize = 8;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Drop {
    /// Longer than any valid one.
    #[error("it is too long")]
    TooLong,
    /// No JSON of the right shape.
    #[error("it cannot be read")]
    Malformed,
    /// Another contract.
    #[error("it speaks version {0}")]
    Version(u32),
    /// Another site.
    #[error("it is of another site")]
    Site,
    /// Our own slot: a second server thinks it is us.
    #[error("its sender claims this server's own slot")]
    OwnSlot,
    /// Seen already, or older.
    #[error("it is a repetition or late")]
    Late,
}

/// Checks one path's datagrams.
#[derive(Debug)]
pub struct Checker {
    site: SiteName,
    slot: NodeSlot,
    newest: Option<(u64, u64)>,
    retired: VecDeque<u64>,
}

impl Checker {
    /// For datagrams to this server.
    #[must_use]
    pub fn new(site: SiteName, slot: NodeSlot) -> Self {
        Self { site, slot, newest: None, retired: VecDeque::new() }
    }

    /// Gives the datagram, or says why it is dropped.
    ///
    /// # Errors
    /// [`Drop`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<PeerDatagram, Drop> {
        if bytes.len() > PEER_BYTES_MAX {
            return Err(Drop::TooLong);
        }
        let datagram: PeerDatagram = serde_json::from_slice(bytes).map_err(|_| Drop::Malformed)?;
        if datagram.v != PROTOCOL_VERSION {
            return Err(Drop::Version(datagram.v));
        }
        if datagram.site != self.site {
            return Err(Drop::Site);
        }
        if datagram.from == self.slot {
            return Err(Drop::OwnSlot);
        }
        self.order(datagram.boot, datagram.seq)?;
        Ok(datagram)
    }

    fn order(&mut self, boot: u64, seq: u64) -> Result<(), Drop> {
        match self.newest {
            Some((now, newest)) if now == boot && seq <= newest => return Err(Drop::Late),
            Some((now, _)) if now == boot => {}
            Some((old, _)) => {
                if self.retired.contains(&boot) {
                    return Err(Drop::Late);
                }
                self.retired.push_back(old);
                if self.retired.len() > RETIRED_MAX {
                    self.retired.pop_front();
                }
            }
            None => {}
        }
        self.newest = Some((boot, seq));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provisioning_protocol::ids::Epoch;
    use provisioning_protocol::peer::{PeerBody, PeerState};
    use serde_json::{Value, json};

    fn checker() -> Checker {
        Checker::new(SiteName::new("oslo").unwrap(), NodeSlot::A)
    }

    fn good(boot: u64, seq: u64) -> Value {
        let body =
            PeerBody { epoch: Epoch(1), state: PeerState::Pair, ..crate::peer::link::empty_body() };
        let site = SiteName::new("oslo").unwrap();
        let datagram =
            PeerDatagram { v: PROTOCOL_VERSION, site, from: NodeSlot::B, boot, seq, body };
        serde_json::to_value(datagram).unwrap()
    }

    fn with(field: &str, value: Value) -> Vec<u8> {
        let mut datagram = good(1, 1);
        datagram[field] = value;
        serde_json::to_vec(&datagram).unwrap()
    }

    #[test]
    fn foreign_datagrams_are_dropped_with_their_reason() {
        let cases = [
            (with("site", json!("bergen")), Drop::Site),
            (with("site", json!("../x")), Drop::Malformed),
            (with("from", json!("A")), Drop::OwnSlot),
            (with("from", json!("C")), Drop::Malformed),
            (with("v", json!(99)), Drop::Version(99)),
            (with("seq", json!(-1)), Drop::Malformed),
            (with("body", json!({"epoch": 1})), Drop::Malformed),
            (vec![b' '; PEER_BYTES_MAX + 1], Drop::TooLong),
            (vec![], Drop::Malformed),
            (vec![0xff; 64], Drop::Malformed),
            (b"[".repeat(4000), Drop::Malformed),
        ];
        for (bytes, why) in cases {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            assert_eq!(checker().take(&bytes).err(), Some(why), "{text}");
        }
        assert!(checker().take(&with("seq", json!(1))).is_ok());
    }

    #[test]
    fn every_truncation_of_a_good_datagram_is_dropped() {
        let whole = serde_json::to_vec(&good(1, 1)).unwrap();
        for cut in 0..whole.len() {
            assert_eq!(checker().take(&whole[..cut]).err(), Some(Drop::Malformed), "cut {cut}");
        }
    }

    #[test]
    fn repeated_and_late_datagrams_are_dropped_and_a_restart_is_not() {
        let mut checker = checker();
        let mut take = |boot, seq| checker.take(&serde_json::to_vec(&good(boot, seq)).unwrap());
        assert!(take(1, 5).is_ok());
        assert_eq!(take(1, 5).err(), Some(Drop::Late));
        assert_eq!(take(1, 4).err(), Some(Drop::Late));
        assert!(take(2, 1).is_ok(), "the peer's agent restarted");
        assert_eq!(take(1, 9).err(), Some(Drop::Late), "from before the restart");
        assert!(take(2, 2).is_ok());
    }
}
