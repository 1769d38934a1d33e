// SPDX-License-Identifier: Apache-2.0
//! `forecourt-watchdog`: holds the server's hardware watchdog for the agent.

use agent_watchdog::device::Paths;
use agent_watchdog::message::Request;
use agent_watchdog::server::Server;
use anyhow::Context;
use std::sync::atomic::AtomicBool;

fn main() -> anyhow::Result<()> {
    let server = Server::new(Paths::default());
    server.listen().context("Could not listen for the agent")?;
    let status = server.answer(Request::Status);
    eprintln!("Watchdog: device \"{}\", {}", status.device, status.reason);
    // Not started by systemd: nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    server.run(&AtomicBool::new(false));
    Ok(())
}
