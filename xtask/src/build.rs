// SPDX-License-Identifier: Apache-2.0
//! Builds and runs the workspace's own binaries.

use crate::{paths, sh};
use std::path::PathBuf;
use std::process::Command;

/// The packages whose binaries the image, the demo and the lab use.
const PACKAGES: [&str; 6] = [
    "agent-daemon",
    "agent-watchdog",
    "agent-console",
    "provisioning-hq",
    "provisioning-cli",
    "provisioning-witness",
];

/// The cargo that runs this command.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = sh::command_in(&paths::root(), PathBuf::from(program));
    // Set for this process by `cargo run`; a build that saw them would not share its cache.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    command
}

/// Builds all release binaries.
pub fn release() -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["build", "--release"]);
    // The kernel's random numbers are enough; collecting timing noise costs every start of the
    // agent seconds on an emulated server, and its watchdog lease is 8 s.
    command.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    for package in PACKAGES {
        command.args(["-p", package]);
    }
    sh::step("build the release binaries", &mut command)
}
