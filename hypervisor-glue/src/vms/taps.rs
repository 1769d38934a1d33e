// SPDX-License-Identifier: Apache-2.0
//! A VM's taps on the LAN bridge.

use super::tap_name;
use crate::command::{Command, CommandRunner};
use crate::error::{GlueError, Result};
use std::path::Path;

/// Group whose members may open taps (and `/dev/kvm`); each VM has a user of its own in it.
pub(super) const GROUP: &str = "kvm";
const NICS_MAX: u32 = 4;

async fn ip(runner: &dyn CommandRunner, words: &[&str]) -> Result<()> {
    runner.check(Command::new("ip", words.iter().copied())).await.map(drop)
}

/// Makes a VM's taps anew, on the bridge and up.
pub(super) async fn create(
    runner: &dyn CommandRunner,
    bridge: &str,
    index: u32,
    nics: u32,
) -> Result<()> {
    if nics > NICS_MAX {
        return Err(GlueError::refused("make taps", format!("{nics} NICs are too many")));
    }
    remove(runner, index).await?;
    // One process for all: in a failover a guest waits for it.
    let lines = (0..nics).map(|nic| {
        let tap = tap_name(index, nic);
        format!(
            "tuntap add dev {tap} mode tap group {GROUP} vnet_hdr\n\
             link set dev {tap} master {bridge} up\n"
        )
    });
    let lines: String = lines.collect();
    runner.check(Command::new("ip", ["-batch", "-"]).stdin(lines)).await.map(drop)
}

/// Removes a VM's taps, as far as there are any.
pub(super) async fn remove(runner: &dyn CommandRunner, index: u32) -> Result<()> {
    for tap in existing(Path::new("/sys/class/net"), index) {
        ip(runner, &["link", "del", "dev", &tap]).await?;
    }
    Ok(())
}

/// Cuts a VM off the LAN, or lets it back.
pub(super) async fn set(runner: &dyn CommandRunner, index: u32, up: bool) -> Result<()> {
    for tap in existing(Path::new("/sys/class/net"), index) {
        ip(runner, &["link", "set", "dev", &tap, if up { "up" } else { "down" }]).await?;
    }
    Ok(())
}

fn existing(sys_class_net: &Path, index: u32) -> Vec<String> {
    (0..NICS_MAX)
        .map(|nic| tap_name(index, nic))
        .filter(|tap| sys_class_net.join(tap).exists())
        .collect()
}
