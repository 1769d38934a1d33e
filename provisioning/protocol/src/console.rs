// SPDX-License-Identifier: Apache-2.0
//! Orders of a person at a server's console to its agent, over a socket on that server.

use serde::{Deserialize, Serialize};

/// Where the agent listens.
pub const OPERATOR_SOCKET: &str = "/run/forecourt/operator.sock";
/// Longest order or answer, in bytes.
pub const LINE_BYTES_MAX: u64 = 4096;

/// An order: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum OperatorOrder {
    /// The other server is switched off or has all its cables pulled: go on without it.
    DeclarePeerOff {
        /// Why, in the person's words.
        reason: String,
    },
    /// The other server was lost in the middle of a resync onto this one and does not come back: go on
    /// without it, with the whole copies from before. What was written since is lost.
    UseOlderData {
        /// Why, in the person's words.
        reason: String,
    },
    /// The data of the two servers has diverged and the other one's is to count: give up what this
    /// server holds, and copy it from there.
    GiveUpData {
        /// Why, in the person's words.
        reason: String,
    },
}

/// What came of it: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorAnswer {
    /// Whether it was done.
    pub done: bool,
    /// In words.
    pub text: String,
}
