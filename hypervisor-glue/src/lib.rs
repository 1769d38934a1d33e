// SPDX-License-Identifier: Apache-2.0
//! Everything a server does to itself: thin volumes, replication, VMs and the network.
//!
//! Each job is a trait with a real implementation and an in-memory fake beside it. This crate
//! reports and obeys; it decides nothing.

pub mod command;
pub mod error;
pub mod network;
pub mod replication;
pub mod vms;
pub mod volumes;

pub use command::{CommandRunner, FakeRunner, HostRunner};
pub use error::{GlueError, Result};
