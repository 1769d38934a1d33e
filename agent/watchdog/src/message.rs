// SPDX-License-Identifier: Apache-2.0
//! What agent and watchdog say to each other: one JSON object a line.

use serde::{Deserialize, Serialize};

/// Where the watchdog listens.
pub const SOCKET_PATH: &str = "/run/forecourt/watchdog.sock";
/// Longest line, in bytes.
pub const LINE_BYTES_MAX: u64 = 1024;

/// What the agent asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Reset this server when the lease is not renewed.
    Arm {
        /// Length of the lease.
        lease_ms: u64,
    },
    /// The agent lives.
    Renew,
    /// Do not reset this server any more.
    Disarm,
    /// Only tell.
    Status,
}

/// What the watchdog answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether a missing renewal resets this server, by hardware.
    pub armed: bool,
    /// Why what was asked was not done, or why it is not armed; empty if all is as asked.
    pub reason: String,
    /// The device in use; empty if there is none.
    pub device: String,
    /// How long the hardware waits after the last pet.
    pub timeout_ms: u64,
    /// What is left of the lease.
    pub lease_left_ms: u64,
}
