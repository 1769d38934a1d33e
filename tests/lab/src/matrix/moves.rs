// SPDX-License-Identifier: Apache-2.0
//! Planned moves: a server is drained while a customer writes, its VM goes over while it runs, and
//! the server is returned to service.

use super::round::Round;
use crate::scenario::Scenario;
use crate::site::{SITE, Site, VM};
use anyhow::{Context, ensure};
use std::time::Duration;

/// The memory goes over; were it by restart, the guest would shut down and boot.
const MOVE_LIMIT: Duration = Duration::from_secs(240);
/// A guest that boots anew is out for longer.
const LIVE_S: f64 = 8.0;

pub const MOVES: &[Scenario] = &[Scenario {
    name: "drain",
    about: "the VM's server is drained: the VM moves live, nobody goes on alone; then it is undrained",
    run: drain,
}];

fn drain(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let host = round.host;
    let prober = round.probe()?;
    let start_s = round.site.timeline.now_s();
    drain_host(&mut round)?;
    round.serves()?;
    let (pause_s, gap_s) = (prober.longest_gap_s(start_s), round.gap_s());
    drop(prober);
    let pause_s = pause_s.context("The guest answers no probe")?;
    let live = went_live(&mut round, host)?;
    let how = if live { "live" } else { "by a restart" };
    round.site.timeline.note(
        VM,
        format!("moved {how}; stood still for {pause_s:.2} s, customers waited {gap_s:.2} s"),
    );
    ensure!(live && gap_s < LIVE_S, "the VM was moved {how} and out for {gap_s:.1} s");
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

/// Whether this server notes that it handed its VM over while it ran.
pub fn went_live(round: &mut Round, from: &str) -> anyhow::Result<bool> {
    let events = round.site.server(from).status()?.events;
    Ok(events.iter().any(|event| event.code == "vm_handed_over"))
}

/// Returns the drained server to service.
pub fn undrain(round: &Round) -> anyhow::Result<()> {
    let slot = round.host.to_uppercase();
    round.site.hq.cli(&["site", "undrain", SITE, &slot]).map(drop)
}
