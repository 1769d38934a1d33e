// SPDX-License-Identifier: Apache-2.0
//! HQ over real TLS on loopback.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod border;
mod catalogue;
mod enrol;
mod placement;
mod real_agent;
mod sites;
mod witness;
mod witness_box;
