// SPDX-License-Identifier: Apache-2.0
//! Browser sessions without a table: the cookie holds an end and a MAC under the operator token,
//! so that a restart keeps sessions and a new token ends them all.

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, header};

/// A working day.
pub const LIFE_S: u64 = 12 * 3600;
/// `__Host-`: only over TLS, only for this host, only for `/`.
pub const COOKIE: &str = "__Host-forecourt";

/// The cookie's value for a session that begins now.
#[must_use]
pub fn issue(token: &str, now_s: u64) -> String {
    let until = now_s + LIFE_S;
    format!("{until}.{}", mac(token, until))
}

/// Whether the request carries a session that has not ended.
#[must_use]
pub fn valid(headers: &HeaderMap, token: &str, now_s: u64) -> bool {
    cookie(headers).is_some_and(|value| check(value, token, now_s))
}

fn check(value: &str, token: &str, now_s: u64) -> bool {
    let Some((until, tag)) = value.split_once('.') else {
        return false;
    };
    let Ok(until) = until.parse::<u64>() else {
        return false;
    };
    let Ok(tag) = data_encoding::HEXLOWER.decode(tag.as_bytes()) else {
        return false;
    };
    until > now_s && hmac::verify(&key(token), message(until).as_bytes(), &tag).is_ok()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE);
    let mut pairs = all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

fn mac(token: &str, until: u64) -> String {
    data_encoding::HEXLOWER.encode(hmac::sign(&key(token), message(until).as_bytes()).as_ref())
}

fn key(token: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes())
}

fn message(until: u64) -> String {
    format!("forecourt dashboard session until {until}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_and_cannot_be_stretched_or_moved_to_another_token() {
        let value = issue("token", 1000);
        assert!(check(&value, "token", 1000 + LIFE_S - 1));
        assert!(!check(&value, "token", 1000 + LIFE_S));
        assert!(!check(&value, "other", 1000));
        let (until, tag) = value.split_once('.').expect("two parts");
        let later = until.parse::<u64>().expect("number") + 1;
        assert!(!check(&format!("{later}.{tag}"), "token", 1000));
        for bad in ["", ".", "1", "x.y", "99999999999."] {
            assert!(!check(bad, "token", 0), "{bad:?}");
        }
    }
}
