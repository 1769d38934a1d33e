// SPDX-License-Identifier: Apache-2.0
//! The process that holds the server's hardware watchdog, so that an agent crash or update does
//! not reset the server, and a dead or hung agent does.
//!
//! ```text
//!            arm                        lease runs out
//!  IDLE ───────────► ARMED ──────────────────────────────► EXPIRED ──► hardware reset,
//!  (pets)  ◄───────  (pets; renew moves the end)           (never pets again)  then sysrq-b
//!           disarm
//! ```

pub mod device;
pub mod keeper;
pub mod message;
pub mod server;
