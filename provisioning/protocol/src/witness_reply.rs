// SPDX-License-Identifier: Apache-2.0
//! What a witness signs: its reply, together with who asked what.
//!
//! TLS tells a server that it speaks with something that holds a certificate of HQ's CA. That is not
//! enough for leave to go on alone: whatever ends TLS on the way, or holds a stolen TLS key, could
//! say what it likes. So each reply is signed with a key that ends no TLS: at HQ the voucher key,
//! which the claim stick names, on a witness on site the key that HQ has enrolled.
//!
//! The nonce is new for each try, so that an earlier reply fits no later question.

use crate::ids::{NodeSlot, SiteName};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Header of the request: 32 random bytes, hex.
pub const NONCE_HEADER: &str = "forecourt-nonce";
/// Header of the reply: ECDSA P-256 with SHA-256 over [`Asked::signed`], r and s, hex.
pub const SIGNATURE_HEADER: &str = "forecourt-signature";
/// Length of a nonce's text.
pub const NONCE_CHARS: usize = 64;
/// Length of a signature's text.
pub const SIGNATURE_CHARS: usize = 128;
/// Longest reply: a record is some 200 bytes.
pub const REPLY_BYTES_MAX: usize = 4096;

/// Begins every signed message; no JWS and no TLS handshake begins like this.
const CONTEXT: &str = "forecourt-witness-reply-v1";

/// A question, as the one who signs the reply and the one who checks it both know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The nonce, as text.
    pub nonce: &'a str,
    /// The site of the server that asks.
    pub site: &'a SiteName,
    /// Its place.
    pub slot: NodeSlot,
    /// The request's body; empty to read the record.
    pub body: &'a [u8],
}

impl Asked<'_> {
    /// The bytes to sign for this reply. No field before the reply can hold a line break.
    #[must_use]
    pub fn signed(&self, reply: &[u8]) -> Vec<u8> {
        let body = HEXLOWER.encode(&Sha256::digest(self.body));
        let head = format!("{CONTEXT}\n{}\n{}\n{}\n{body}\n", self.nonce, self.site, self.slot);
        [head.as_bytes(), reply].concat()
    }
}

/// Whether a text is a nonce.
#[must_use]
pub fn is_nonce(text: &str) -> bool {
    text.len() == NONCE_CHARS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_question_is_in_what_is_signed() {
        let (oslo, kassel) = (SiteName::new("oslo").unwrap(), SiteName::new("kassel").unwrap());
        let asked = Asked { nonce: "00", site: &oslo, slot: NodeSlot::A, body: b"" };
        let others = [
            Asked { nonce: "01", ..asked },
            Asked { site: &kassel, ..asked },
            Asked { slot: NodeSlot::B, ..asked },
            Asked { body: b"{}", ..asked },
        ];
        for other in others {
            assert_ne!(other.signed(b"{}"), asked.signed(b"{}"), "{other:?}");
        }
        assert_ne!(asked.signed(b"{}"), asked.signed(b"{} "));
    }

    #[test]
    fn only_64_lower_case_hex_digits_are_a_nonce() {
        assert!(is_nonce(&"0f".repeat(32)));
        let long = "0".repeat(65);
        for bad in ["", "0f", &"0F".repeat(32), &"\n0".repeat(32), &long] {
            assert!(!is_nonce(bad), "{bad:?}");
        }
    }
}
