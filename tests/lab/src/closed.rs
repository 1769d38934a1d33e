// SPDX-License-Identifier: Apache-2.0
//! What a server must not offer: a login, a package manager, an open port on the LAN.

use crate::server::Server;
use crate::site::Site;
use anyhow::{Context, ensure};

/// Programs that would let someone in, or change the system.
const FORBIDDEN: [&str; 18] = [
    "sshd", "dropbear", "telnetd", "login", "agetty", "getty", "sulogin", "su", "sudo", "passwd",
    "apt", "apt-get", "dpkg", "rpm", "dnf", "snap", "curl", "wget",
];
/// State of a listening TCP socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";
/// The tunnels' prefix, `fd46:4f52`, and `::1`, as `/proc/net/tcp6` writes their first word.
const TUNNEL_WORD: &str = "524F46FD";
const LOOPBACK_6: &str = "00000000000000000000000001000000";

/// No way in on either server.
pub fn closed(site: &mut Site) -> anyhow::Result<()> {
    for server in [&site.a, &site.b] {
        no_programs(server)?;
        no_passwords(server)?;
        no_open_ports(server)?;
    }
    Ok(())
}

fn no_programs(server: &Server) -> anyhow::Result<()> {
    let look = format!("for p in {}; do command -v $p; done; true", FORBIDDEN.join(" "));
    let found = server.exec(&look)?.ok()?;
    ensure!(found.trim().is_empty(), "{} has {found}", server.name());
    Ok(())
}

fn no_passwords(server: &Server) -> anyhow::Result<()> {
    let shadow = server.exec("cat /etc/shadow 2>/dev/null; true")?.ok()?;
    for line in shadow.lines().filter(|line| line.contains(':')) {
        let mut fields = line.split(':');
        let (name, hash) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let locked = hash.starts_with('!') || hash.starts_with('*');
        ensure!(locked, "{}: {name} can log in", server.name());
    }
    Ok(())
}

fn no_open_ports(server: &Server) -> anyhow::Result<()> {
    let tables = server.exec("cat /proc/net/tcp /proc/net/tcp6")?.ok()?;
    let mut listening = 0;
    for line in tables.lines() {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        let Some((address, port)) = local.and_then(|local| local.split_once(':')) else { continue };
        if state != Some(LISTEN) {
            continue;
        }
        listening += 1;
        let port = u16::from_str_radix(port, 16).with_context(|| line.to_owned())?;
        let inside =
            address.ends_with("7F") || address == LOOPBACK_6 || address.starts_with(TUNNEL_WORD);
        ensure!(inside, "{} listens on {address} port {port}", server.name());
    }
    ensure!(listening > 0, "{}: the peer's chunks should be on offer: {tables}", server.name());
    Ok(())
}
