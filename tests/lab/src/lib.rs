// SPDX-License-Identifier: Apache-2.0
//! The lab: HQ and two emulated servers that boot the real image, with faults and measurements.
//!
//! ```text
//!   forecourt-hq (127.0.0.1)          host side
//!        │
//!   [Gateway]  slirp: DHCP, 10.0.2.2 = the host, forwards to VMs
//!        │ wan                        cut = WAN outage
//!   [Switch "lan"] ── a ── Server a ── a ──[Switch "cable"]── b ── Server b
//!        └──────────── b ──────────────────────────────────────────────┘
//! ```
//!
//! Every link is a pair of Unix datagram sockets and can be cut in each direction. Servers are QEMU
//! processes; whatever dies, no process stays behind (see [`process`]).

pub mod accel;
pub mod artifacts;
pub mod bench;
pub mod channel;
pub mod closed;
pub mod console;
pub mod demo;
pub mod emulator;
pub mod failover;
pub mod gateway;
pub mod hq;
pub mod http;
pub mod matrix;
pub mod net;
pub mod probe;
pub mod process;
pub mod qmp;
pub mod rundir;
pub mod scenario;
pub mod scenarios;
pub mod server;
pub mod site;
pub mod stick;
pub mod timeline;
pub mod vcpus;
pub mod wait;
pub mod witness_box;
pub mod writer;
