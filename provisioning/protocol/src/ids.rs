// SPDX-License-Identifier: Apache-2.0
//! Typed ids: a bare `String` never crosses a border.

use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Longest name, in bytes: it becomes part of LVM, DRBD, unit and tap names.
pub const NAME_BYTES_MAX: usize = 40;

/// Why a text is no valid name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{text}\" is no valid {kind}: use 1 to 40 of a-z, 0-9 and single hyphens, starting with a letter"
)]
pub struct NameError {
    /// What the text was meant to be.
    pub kind: &'static str,
    /// The text, cut to 60 characters.
    pub text: String,
}

fn check_name(kind: &'static str, text: &str) -> Result<(), NameError> {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    let chars = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let hyphens = !text.contains("--") && !text.ends_with('-');
    if starts && chars && hyphens && text.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(NameError { kind, text: text.chars().take(60).collect() })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`NameError`] if it is not 1–40 of `a-z0-9-` starting with a letter.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check_name($kind, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name_type!(
    /// A site: one branch office with its pair of servers.
    SiteName, "site name"
);
name_type!(
    /// A VM of a site, unique within the site.
    VmName, "VM name"
);
name_type!(
    /// A disk of a VM, unique within the VM.
    DiskName, "disk name"
);
name_type!(
    /// A template in the catalogue.
    TemplateName, "template name"
);
name_type!(
    /// A blueprint: the set of VMs a class of sites runs.
    BlueprintName, "blueprint name"
);

/// Which of the two places in a pair a server holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeSlot {
    /// The first server.
    A,
    /// The second server.
    B,
}

impl NodeSlot {
    /// Both slots, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other server of the pair.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Lower-case letter used in addresses and names.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }
}

impl fmt::Display for NodeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// A server's identity, made by HQ in the voucher; the certificate's SAN is `urn:uuid:<this>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceId(pub String);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A membership epoch of a pair: never goes back, and nothing acts on an older one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_a_path_or_a_unit_are_refused() {
        for bad in ["", "A", "1a", "a--b", "a-", "a/b", "../x", "a_b", "ä", &"a".repeat(41)] {
            assert!(VmName::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(VmName::new("parts-counter").map(String::from), Ok("parts-counter".into()));
    }

    #[test]
    fn a_bad_name_in_json_names_the_kind() {
        let err = serde_json::from_str::<SiteName>("\"Köln\"").expect_err("refused").to_string();
        assert!(err.contains("site name"), "{err}");
    }
}
