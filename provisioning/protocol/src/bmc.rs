// SPDX-License-Identifier: Apache-2.0
//! How a server's BMC is reached: written by an operator, kept by HQ, given to the other server of the
//! pair alone.

use crate::desired::Secret;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest address and longest path to the system.
const TEXT_MAX: usize = 200;
/// Redfish allows no longer ones that are of use.
const USER_MAX: usize = 64;
const PASSWORD_MAX: usize = 128;
/// Where Redfish keeps its systems.
const SYSTEMS: &str = "/redfish/v1/Systems/";

/// A server's BMC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bmc {
    /// `https://HOST[:PORT]`. Not plain HTTP: who reads the password can switch servers off.
    pub url: String,
    /// Account that may switch power.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// SHA-256 of the BMC's certificate, 64 hex digits (colons are allowed): no other is believed.
    pub fingerprint: String,
    /// Path of the system, where a BMC serves several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// `PUT /v1/sites/{site}/bmc/{slot}`: the same as an operator writes it, with nothing beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBmc {
    /// As [`Bmc::url`].
    pub url: String,
    /// As [`Bmc::user`].
    pub user: String,
    /// As [`Bmc::password`].
    pub password: Secret,
    /// As [`Bmc::fingerprint`].
    pub fingerprint: String,
    /// As [`Bmc::system`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

impl TryFrom<NewBmc> for Bmc {
    type Error = BmcFault;

    fn try_from(new: NewBmc) -> Result<Self, BmcFault> {
        let NewBmc { url, user, password, fingerprint, system } = new;
        let bmc = Self { url, user, password, fingerprint, system };
        bmc.check().map(|()| bmc)
    }
}

/// A value that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct BmcFault {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it. Never the value.
    pub reason: &'static str,
}

impl Bmc {
    /// Looks at every field.
    ///
    /// # Errors
    /// [`BmcFault`] with the first that cannot be right.
    pub fn check(&self) -> Result<(), BmcFault> {
        let fault = |field, reason| Err(BmcFault { field, reason });
        if !is_base(&self.url) {
            return fault("url", "must be https://HOST or https://HOST:PORT and nothing more");
        }
        let plain = |text: &str| text.chars().all(|c| !c.is_control());
        if self.user.is_empty() || self.user.len() > USER_MAX || !plain(&self.user) {
            return fault("user", "must have 1 to 64 characters, none of them a control character");
        }
        if self.user.contains(':') {
            return fault("user", "must not contain a colon");
        }
        let password = &self.password.0;
        if password.is_empty() || password.len() > PASSWORD_MAX || !plain(password) {
            return fault("password", "must have 1 to 128 characters, none a control character");
        }
        if self.pin().is_none() {
            return fault("fingerprint", "must be the SHA-256 of a certificate, 64 hex digits");
        }
        match &self.system {
            Some(path) if !is_system(path) => {
                fault("system", "must be a path below /redfish/v1/Systems/")
            }
            _ => Ok(()),
        }
    }

    /// The fingerprint as bytes.
    #[must_use]
    pub fn pin(&self) -> Option<[u8; 32]> {
        let digits: String = self.fingerprint.chars().filter(|c| *c != ':').take(65).collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
        bytes.try_into().ok()
    }
}

fn is_base(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !host.is_empty() && url.len() <= TEXT_MAX && host.chars().all(known)
}

/// Whether `path` can be a system's path.
#[must_use]
pub fn is_system(path: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '~');
    let one =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(known);
    path.len() <= TEXT_MAX && path.strip_prefix(SYSTEMS).is_some_and(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Bmc {
        Bmc {
            url: "https://10.0.0.9:8443".into(),
            user: "fence".into(),
            password: Secret("pass:word".into()),
            fingerprint: "AB:".repeat(31) + "cd",
            system: Some("/redfish/v1/Systems/1".into()),
        }
    }

    #[test]
    fn what_an_operator_writes_is_looked_at_by_field() {
        assert_eq!(good().check(), Ok(()));
        assert_eq!(good().pin().map(|pin| (pin[0], pin[31])), Some((0xab, 0xcd)));
        let text = |text: &str| text.to_owned();
        let bad = [
            ("url", Bmc { url: text("http://10.0.0.9"), ..good() }),
            ("url", Bmc { url: text("https://root:x@10.0.0.9"), ..good() }),
            ("url", Bmc { url: text("https://10.0.0.9/redfish"), ..good() }),
            ("url", Bmc { url: text("https://"), ..good() }),
            ("user", Bmc { user: text(""), ..good() }),
            ("user", Bmc { user: text("a:b"), ..good() }),
            ("user", Bmc { user: text("a\r\nX-Evil: 1"), ..good() }),
            ("password", Bmc { password: Secret(text("x\n")), ..good() }),
            ("password", Bmc { password: Secret("x".repeat(129)), ..good() }),
            ("fingerprint", Bmc { fingerprint: text("ab"), ..good() }),
            ("fingerprint", Bmc { fingerprint: "x".repeat(64), ..good() }),
            ("system", Bmc { system: Some(text("/redfish/v1/Systems/../Managers")), ..good() }),
            ("system", Bmc { system: Some(text("//evil/redfish/v1/Systems/1")), ..good() }),
            ("system", Bmc { system: Some(text("/redfish/v1/Systems/1/Bios")), ..good() }),
        ];
        for (field, bmc) in bad {
            assert_eq!(bmc.check().expect_err("refused").field, field, "{bmc:?}");
        }
        let wire = serde_json::to_string(&good()).expect("JSON").replace("\"user\"", "\"usr\"");
        assert!(serde_json::from_str::<NewBmc>(&wire).is_err());
        let more = serde_json::to_string(&good()).expect("JSON").replacen('{', "{\"more\":1,", 1);
        assert!(serde_json::from_str::<NewBmc>(&more).is_err());
        assert_eq!(serde_json::from_str::<Bmc>(&more).expect("a newer HQ's"), good());
        assert!(!format!("{:?}", good()).contains("pass:word"));
    }
}
