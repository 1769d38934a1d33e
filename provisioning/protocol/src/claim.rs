// SPDX-License-Identifier: Apache-2.0
//! Claim codes: 15 random Crockford base32 characters (75 bits) and a check character.
//!
//! The first four characters (`claim_id`) may travel in the clear; the rest is the secret. HQ
//! stores the SHA-256 of the normalized code.

use sha2::{Digest, Sha256};
use std::fmt;
use thiserror::Error;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Characters of a code, check character included.
pub const CLAIM_CHARS: usize = 16;

/// Why a text is no claim code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// Wrong number of characters.
    #[error("a claim code has {CLAIM_CHARS} characters, not {0}; check for missing groups")]
    Length(usize),
    /// A character outside the alphabet.
    #[error("\"{0}\" cannot occur in a claim code")]
    Character(char),
    /// The check character does not fit: a typing error.
    #[error("the claim code's check character does not fit; it was probably mistyped")]
    Check,
}

/// A well-formed claim code. Its Debug shows only the public id.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimCode(String);

impl ClaimCode {
    /// Makes a code of 15 random values; only the low five bits of each byte count.
    #[must_use]
    pub fn from_random(bytes: &[u8; CLAIM_CHARS - 1]) -> Self {
        let mut text: String =
            bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
        text.push(check_char(&text));
        Self(text)
    }

    /// Reads what a person typed: case, spaces, hyphens and O/0, I/L/1 confusion are forgiven.
    ///
    /// # Errors
    /// [`ClaimError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ClaimError> {
        let mut code = String::with_capacity(CLAIM_CHARS);
        for c in text.trim().chars().filter(|c| !matches!(c, ' ' | '-')).take(64) {
            let c = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            if !c.is_ascii() || !ALPHABET.iter().any(|a| char::from(*a) == c) {
                return Err(ClaimError::Character(c));
            }
            code.push(c);
        }
        if code.len() != CLAIM_CHARS {
            return Err(ClaimError::Length(code.len()));
        }
        if code.ends_with(check_char(&code[..CLAIM_CHARS - 1])) {
            Ok(Self(code))
        } else {
            Err(ClaimError::Check)
        }
    }

    /// The public first four characters.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0[..4]
    }

    /// All 16 characters: a secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// In groups of four, for printing on a card.
    #[must_use]
    pub fn grouped(&self) -> String {
        [&self.0[..4], &self.0[4..8], &self.0[8..12], &self.0[12..]].join("-")
    }

    /// What HQ stores: lower-case hex of SHA-256 over the 16 characters.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&Sha256::digest(self.0.as_bytes()))
    }
}

impl fmt::Debug for ClaimCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimCode({}-…)", self.id())
    }
}

fn check_char(body: &str) -> char {
    let hash = Sha256::digest(body.as_bytes());
    char::from(ALPHABET[usize::from(hash[0] & 31)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_how_people_type() {
        let code = ClaimCode::from_random(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let typed = code.grouped().to_lowercase().replace('0', "o").replace('1', "l");
        assert_eq!(ClaimCode::parse(&format!("  {typed}\n")), Ok(code));
    }

    #[test]
    fn most_single_typing_errors_are_caught() {
        let code = ClaimCode::from_random(&[7; 15]);
        let caught = (0..15)
            .flat_map(|at| ALPHABET.iter().map(move |c| (at, *c)))
            .filter(|(at, c)| {
                let mut bytes = code.secret().as_bytes().to_vec();
                bytes[*at] = *c;
                let text = String::from_utf8(bytes).expect("ascii");
                text != code.secret() && ClaimCode::parse(&text).is_err()
            })
            .count();
        assert!(caught > 430, "only {caught} of 465 were caught");
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let code = ClaimCode::from_random(&[9; 15]);
        assert!(!format!("{code:?}").contains(&code.secret()[4..]));
    }
}
