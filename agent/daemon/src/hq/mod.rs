// SPDX-License-Identifier: Apache-2.0
//! Talking to HQ: TLS pinned to the owner's root, one small client, the long poll, the reports.

pub mod client;
pub mod poll;
pub mod reply;
pub mod report;
pub mod tls;
pub mod witness;
pub mod witnesses;
