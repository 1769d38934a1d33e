// SPDX-License-Identifier: Apache-2.0
//! VMs: their volumes, their start, and whether they are well.

pub mod capacity;
pub mod fill;
pub mod launch;
pub mod pool;
pub mod probe;
pub mod provision;
pub mod registry;
pub mod watch;
