// SPDX-License-Identifier: Apache-2.0
//! The other server of the pair: datagrams in both tunnels, and template chunks for it.

pub mod check;
pub mod chunks;
pub mod link;
pub mod memory;
