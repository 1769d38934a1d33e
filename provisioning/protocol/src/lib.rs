// SPDX-License-Identifier: Apache-2.0
//! Wire types of HQ, agent and peer: the one contract both sides compile.
//!
//! No I/O happens here. Every type that crosses a border refuses what it does not know where an
//! operator writes it (`deny_unknown_fields`), and ignores what it does not know where an agent
//! reads it, so that HQ can be newer than the fleet.

pub mod bmc;
pub mod claim;
pub mod console;
pub mod desired;
pub mod enrol;
pub mod ids;
pub mod local_witness;
pub mod operator;
pub mod owner;
pub mod peer;
pub mod problem;
pub mod report;
pub mod status;
pub mod template;
pub mod witness;
pub mod witness_reply;

/// Version of the agent–HQ contract; bumped when a change is not additive.
pub const PROTOCOL_VERSION: u32 = 1;

/// Longest JSON body an agent or an operator may send to HQ, in bytes (chunks are apart).
pub const BODY_BYTES_MAX: usize = 64 * 1024;
