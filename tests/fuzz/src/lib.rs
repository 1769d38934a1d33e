// SPDX-License-Identifier: Apache-2.0
//! What must take any bytes at all: one function for each decoder of the system.
//!
//! `cargo xtask fuzz` runs them under libFuzzer; the test beside them runs the seeds in
//! `data/TARGET/`, which hold every input that once broke something.

mod glue;
mod hq;
mod pair;
mod server;
mod witness;

/// The environment variable that names the target to be.
pub const TARGET_VARIABLE: &str = "FORECOURT_FUZZ_TARGET";

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and its folder's.
    pub name: &'static str,
    /// Takes any bytes; a panic is a finding.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "peer", run: pair::peer },
    Target { name: "memory", run: pair::memory },
    Target { name: "witness", run: pair::witness },
    Target { name: "swap", run: pair::swap },
    Target { name: "slot", run: pair::slot },
    Target { name: "state", run: pair::state },
    Target { name: "drbd", run: glue::drbd },
    Target { name: "qmp", run: glue::qmp },
    Target { name: "lvm", run: glue::lvm },
    Target { name: "sockets", run: server::sockets },
    Target { name: "status", run: server::status },
    Target { name: "stick", run: server::stick },
    Target { name: "enrol", run: server::enrol },
    Target { name: "desired", run: server::desired },
    Target { name: "template", run: hq::template },
    Target { name: "manifest", run: hq::manifest },
    Target { name: "chunk", run: hq::chunk },
    Target { name: "bodies", run: hq::bodies },
    Target { name: "reply", run: witness::reply },
    Target { name: "box", run: witness::witness_box },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
