// SPDX-License-Identifier: Apache-2.0
//! The agent: carries out what `agent-core` decides and feeds it what happened.
//!
//! It decides nothing. One task (`pair`) owns the core; everything slow is done by workers whose
//! results come back as inputs.

pub mod bmc;
pub mod durable;
pub mod enrol;
pub mod hq;
pub mod identity;
pub mod pair;
pub mod past;
pub mod paths;
pub mod peer;
pub mod run;
pub mod site;
pub mod status;
pub mod templates;
pub mod vms;
