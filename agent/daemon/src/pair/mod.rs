// SPDX-License-Identifier: Apache-2.0
//! The pair: one task owns the core; workers carry out its effects and feed it facts.
//!
//! ```text
//!  peer datagrams ─┐                       ┌─► lanes: persist, witness, volumes, taps, each VM
//!  DRBD monitor ───┤                       │        (results come back as inputs)
//!  fence helpers ──┼─► inputs ─► core ─────┼─► peer datagrams
//!  VM watch ───────┤    ▲ tick 100 ms      └─► watchdog lease
//!  HQ's desired ───┘
//! ```

pub mod engine;
pub mod evict;
pub mod executor;
pub mod helper;
pub mod keep;
pub mod lane;
mod live;
pub mod monitor;
pub mod operator;
mod socket;
pub mod start;
pub mod summary;
pub mod verify;
pub mod volumes;
pub mod watchdog;
