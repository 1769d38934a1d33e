// SPDX-License-Identifier: Apache-2.0
//! Templates: verified metadata, bytes from the peer or HQ, a sealed volume.

pub mod counters;
pub mod install;
pub mod peer_source;
