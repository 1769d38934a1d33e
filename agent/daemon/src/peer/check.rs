// SPDX-License-Identifier: Apache-2.0
//! What a datagram must be before the core hears of it. What is repeated, late or from before a
//! restart the core itself drops: it hears both paths.

use provisioning_protocol::PROTOCOL_VERSION;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::peer::{PEER_BYTES_MAX, PeerDatagram};
use thiserror::Error;

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
}

/// Checks datagrams.
#[derive(Debug)]
pub struct Checker {
    site: SiteName,
    slot: NodeSlot,
}

impl Checker {
    /// For datagrams to this server.
    #[must_use]
    pub fn new(site: SiteName, slot: NodeSlot) -> Self {
        Self { site, slot }
    }

    /// Gives the datagram, or says why it is dropped.
    ///
    /// # Errors
    /// [`Drop`].
    pub fn take(&self, bytes: &[u8]) -> Result<PeerDatagram, Drop> {
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
        Ok(datagram)
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
}
