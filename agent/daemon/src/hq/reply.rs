// SPDX-License-Identifier: Apache-2.0
//! What a witness's reply must carry before this server believes it: a signature over this very
//! question, by the key this server was told of ([`provisioning_protocol::witness_reply`]).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::witness_reply::{Asked, NONCE_CHARS, REPLY_BYTES_MAX, SIGNATURE_CHARS};
use std::fmt::Write as _;
use thiserror::Error;

/// Most keys a witness may sign with: an owner's voucher keys, old and new.
const KEYS_MAX: usize = 8;

/// Why a reply is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// No signature at all.
    #[error(
        "it is not signed; something between may end TLS, or the witness is of an older version"
    )]
    Unsigned,
    /// Longer than any honest one.
    #[error("it has {0} bytes, more than any honest one")]
    TooLong(usize),
    /// No signature by its form.
    #[error("its signature is damaged")]
    Encoding,
    /// Another key, another question, or changed on the way.
    #[error(
        "its signature does not fit: forged, changed on the way, or the reply to another question"
    )]
    Forged,
    /// Signed, and yet no reply.
    #[error("it is signed, and yet no reply to this question")]
    Content,
    /// No random bytes for a nonce.
    #[error("the system gave no random bytes to ask with")]
    Random,
}

/// Whom a witness's replies must be for, and by.
#[derive(Debug, Clone)]
pub struct Trust {
    /// This server's site.
    pub site: SiteName,
    /// This server's place.
    pub slot: NodeSlot,
    keys: Vec<Vec<u8>>,
}

impl Trust {
    /// Trusts these keys (P-256, SPKI, base64 of DER); what is no base64 is left out.
    #[must_use]
    pub fn new<'a>(
        site: &SiteName,
        slot: NodeSlot,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let keys = keys.into_iter().take(KEYS_MAX).filter_map(|key| STANDARD.decode(key).ok());
        Self { site: site.clone(), slot, keys: keys.collect() }
    }

    /// Checks a reply to the question with this nonce and body.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn check(
        &self,
        nonce: &str,
        body: &[u8],
        signature: Option<&str>,
        reply: &[u8],
    ) -> Result<(), ReplyError> {
        if reply.len() > REPLY_BYTES_MAX {
            return Err(ReplyError::TooLong(reply.len()));
        }
        let signature = unhex(signature.ok_or(ReplyError::Unsigned)?)?;
        let message = Asked { nonce, site: &self.site, slot: self.slot, body }.signed(reply);
        let fits = |key: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
                .verify(&message, &signature)
                .is_ok()
        };
        if self.keys.iter().any(fits) { Ok(()) } else { Err(ReplyError::Forged) }
    }
}

/// A nonce, new for each try.
///
/// # Errors
/// [`ReplyError::Random`].
pub fn nonce() -> Result<String, ReplyError> {
    let mut bytes = [0_u8; NONCE_CHARS / 2];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ReplyError::Random)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn unhex(text: &str) -> Result<Vec<u8>, ReplyError> {
    let digits = text.as_bytes();
    if digits.len() != SIGNATURE_CHARS || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(ReplyError::Encoding);
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        })
        .collect::<Option<_>>()
        .ok_or(ReplyError::Encoding)
}
