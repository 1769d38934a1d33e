// SPDX-License-Identifier: Apache-2.0
//! Planned moves: a server is drained while a customer writes, and returned to service.

use super::round::Round;
use crate::scenario::Scenario;
use crate::site::{SITE, Site, VM};
use anyhow::ensure;
use std::time::Duration;

/// The guest shuts down, is started on the other server, and boots.
const MOVE_LIMIT: Duration = Duration::from_secs(240);

pub const MOVES: &[Scenario] = &[Scenario {
    name: "drain",
    about: "the VM's server is drained: the VM moves, nobody goes on alone; then it is undrained",
    run: drain,
}];

fn drain(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let host = round.host;
    drain_host(&mut round)?;
    round.serves()?;
    let gap_s = round.gap_s();
    round.site.timeline.note(VM, format!("moved by a restart; out for {gap_s:.1} s"));
    undrain(&round)?;
    round.serves()?;
    ensure!(round.site.host_of_vm()? != host, "the VM went back although rebalancing is off");
    round.nobody_alone()?;
    round.nobody_rebooted()?;
    round.end()
}

/// Drains the VM's server and waits until both say that it is done.
pub fn drain_host(round: &mut Round) -> anyhow::Result<()> {
    let slot = round.host.to_uppercase();
    round.site.hq.cli(&["site", "drain", SITE, &slot])?;
    round.fault("drained");
    let words = format!("Server {slot} is drained.");
    for server in [&round.site.a, &round.site.b] {
        server.wait_status("the end of the drain", MOVE_LIMIT, |status| {
            status.server.pair.cause.contains(&words).then_some(())
        })?;
    }
    Ok(())
}

/// Returns the drained server to service.
pub fn undrain(round: &Round) -> anyhow::Result<()> {
    let slot = round.host.to_uppercase();
    round.site.hq.cli(&["site", "undrain", SITE, &slot]).map(drop)
}
