// SPDX-License-Identifier: Apache-2.0
//! Planned moves: a server is drained while a customer writes, its VM goes over while it runs, and
//! the server is returned to service.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::scenario::Scenario;
use crate::server::lan_mac;
use crate::site::{SITE, Site, VM};
use crate::vcpus::Vcpus;
use crate::wait::wait_every;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::time::Duration;

/// Between two looks for the moment of the cut.
const LOOK: Duration = Duration::from_millis(20);

/// Between two questions to HQ.
const ASK: Duration = Duration::from_secs(1);

/// The memory goes over; were it by restart, the guest would shut down and boot.
const MOVE_LIMIT: Duration = Duration::from_secs(240);
/// A guest that boots anew is out for longer.
const LIVE_S: f64 = 8.0;

pub const MOVES: &[Scenario] = &[
    Scenario {
        name: "drain",
        about: "the VM's server is drained: the VM moves live, nobody goes on alone; then it is undrained",
        run: drain,
    },
    Scenario {
        name: "drain-cut",
        about: "every way between the servers is cut in the middle of a live move: the VM runs on one of them",
        run: drain_cut,
    },
];

/// So much of the VM's memory has gone over when the ways are cut: under a tenth of what it uses.
const STREAMED: u64 = 4 << 20;
/// From the drain to the first of the memory: a QEMU is loaded for it first.
const STREAM_LIMIT: Duration = Duration::from_secs(90);

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

/// Which of the two goes on with the VM is for the rules to say; that it is one, and with every write, is
/// demanded here. Once the servers hear each other again the drain goes on.
fn drain_cut(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let host = round.host;
    let slot = host.to_uppercase();
    let vcpus = Vcpus::watch(round.site)?;
    let sent = |site: &Site| {
        let lan = site.lan.bytes(lan_mac(host), lan_mac(if host == "a" { "b" } else { "a" }));
        site.cable.port_bytes(host).bytes_in + lan
    };
    round.site.hq.cli(&["site", "drain", SITE, &slot])?;
    let moving = format!("{VM} is moving to server");
    wait_every("the move to begin", MINUTE, LOOK, || {
        let cause = round.site.server(host).status()?.server.pair.cause;
        Ok(cause.contains(&moving).then_some(()))
    })?;
    let before = sent(round.site);
    wait_every("its memory to be on its way", STREAM_LIMIT, LOOK, || {
        Ok((sent(round.site) - before >= STREAMED).then_some(()))
    })?;
    round.part(true);
    let kib = (sent(round.site) - before) >> 10;
    round.fault(&format!("every way between the servers is cut, {kib} KiB into the move"));
    round.serves()?;
    let gap_s = round.gap_s();
    let at = round.site.host_of_vm()?;
    let live = went_live(&mut round, host)?;
    let text = format!("goes on on {at}; out for {gap_s:.1} s; handed over before the cut: {live}");
    round.site.timeline.note(VM, text);
    round.part(false);
    round.site.wait_paired(PAIR_LIMIT)?;
    wait_drained(&round)?;
    round.serves()?;
    vcpus.ran_once(&round.site.timeline)?;
    ensure!(round.site.host_of_vm()? != host, "the drained server runs the VM");
    undrain(&round)?;
    round.end()
}

/// Drains the VM's server and waits until both say that it is done.
pub fn drain_host(round: &mut Round) -> anyhow::Result<()> {
    let slot = round.host.to_uppercase();
    round.site.hq.cli(&["site", "drain", SITE, &slot])?;
    round.fault("drained");
    wait_drained(round)
}

/// As an operator: HQ is asked, since a question to the servers would take a processor from the guest.
fn wait_drained(round: &Round) -> anyhow::Result<()> {
    let words = format!("Server {} is drained.", round.host.to_uppercase());
    wait_every("the end of the drain", MOVE_LIMIT, ASK, || {
        let site = round.site.hq.cli_json(&["site", "show", SITE])?;
        let causes = ["0", "1"].map(|at| site.pointer(&format!("/servers/{at}/status/pair/cause")));
        let all = causes
            .iter()
            .all(|cause| cause.and_then(Value::as_str).is_some_and(|cause| cause.contains(&words)));
        ensure!(all, "the servers tell HQ {causes:?}");
        Ok(Some(()))
    })
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
