// SPDX-License-Identifier: Apache-2.0
//! Faults of cables and switches: nothing loses power.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::net::Direction;
use crate::scenario::Scenario;
use crate::server::lan_mac;
use crate::site::{Site, VM, is_paired};
use crate::vcpus::Vcpus;
use anyhow::ensure;
use provisioning_protocol::peer::{Path, PeerState};
use std::time::Duration;

/// Customers wait so long for another way: the servers' own, and their TCP's next try, which comes ever later.
const SWITCH_LIMIT_S: f64 = 10.0;

pub const LINKS: &[Scenario] = &[
    Scenario {
        name: "cut-off",
        about: "the VM's server is cut off and lives: the VM moves, and the loser lets go of it",
        run: cut_off,
    },
    Scenario {
        name: "cable-cut",
        about: "the direct cable is pulled: replication goes over the LAN, nobody goes on alone",
        run: cable_cut,
    },
    Scenario {
        name: "one-way-cable",
        about: "the direct cable carries one direction only: as if it were pulled",
        run: one_way_cable,
    },
    Scenario {
        name: "lan-cut",
        about: "the VM's server loses the LAN, the cable lives: the pair stays, nobody goes on alone",
        run: lan_cut,
    },
    Scenario {
        name: "servers-parted",
        about: "all ways between the servers are cut, HQ answers both: the VM stays where it runs",
        run: servers_parted,
    },
    Scenario {
        name: "one-way-cut",
        about: "between the servers one direction is cut on every way: one of them goes on",
        run: one_way_cut,
    },
    Scenario {
        name: "one-way-witness",
        about: "requests reach HQ, answers do not, and the peer dies: the retry after it is granted",
        run: one_way_witness,
    },
    Scenario {
        name: "flapping",
        about: "all ways between the servers come and go three times within a minute",
        run: flapping,
    },
];

/// Pulled and plugged in again: replication goes over the LAN and comes back.
fn cable_cut(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.cable.cut_both("a");
    round.fault("the cable is pulled");
    over_lan_and_back(round)
}

fn one_way_cable(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.cable.cut("a", Direction::In);
    round.fault("the cable carries nothing from A");
    over_lan_and_back(round)
}

fn over_lan_and_back(mut round: Round) -> anyhow::Result<()> {
    wait_path(round.site, Path::Lan, MINUTE)?;
    round.site.timeline.note("pair", "in sync over the LAN");
    round.stayed()?;
    round.site.cable.heal_both("a");
    wait_path(round.site, Path::Cable, PAIR_LIMIT)?;
    round.site.timeline.note("pair", "in sync over the cable");
    round.stayed()?;
    let pause_s = round.gap_s();
    ensure!(pause_s <= SWITCH_LIMIT_S, "customers waited for {pause_s:.1} s");
    round.nobody_alone()?;
    round.nobody_rebooted()?;
    round.end()
}

fn wait_path(site: &Site, path: Path, limit: Duration) -> anyhow::Result<()> {
    for server in [&site.a, &site.b] {
        server.wait_status(&format!("a pair over {path:?}"), limit, |status| {
            (is_paired(status) && status.server.pair.replication == Some(path)).then_some(())
        })?;
    }
    Ok(())
}

/// Customers cannot reach the VM meanwhile; moving it would not be safer than waiting.
fn lan_cut(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.lan.cut_both(round.host);
    round.fault("the LAN cable of the VM's server is pulled");
    round.nobody_serves(Duration::from_secs(40))?;
    for server in [&round.site.a, &round.site.b] {
        ensure!(is_paired(&server.status()?), "server {} left the pair", server.name());
    }
    round.site.lan.heal_both(round.host);
    round.serves()?;
    round.nobody_alone()?;
    round.nobody_rebooted()?;
    round.end()
}

/// The side with the VM asks the witness first and goes on; the other one has nothing to let go of.
fn servers_parted(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let vcpus = Vcpus::watch(round.site)?;
    round.part(true);
    round.fault("every way between the servers is cut");
    round.stayed()?;
    round.part(false);
    round.nobody_rebooted()?;
    round.site.wait_paired(PAIR_LIMIT)?;
    vcpus.ran_once(&round.site.timeline)?;
    round.end()
}

fn one_way_cut(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let vcpus = Vcpus::watch(round.site)?;
    let [host, other] = [round.host, round.other].map(lan_mac);
    round.site.lan.block(other, host, true);
    round.site.cable.cut(round.other, Direction::In);
    round.fault("nothing from the other server reaches the VM's");
    round.serves()?;
    let gap_s = round.gap_s();
    round.site.timeline.note(VM, format!("longest pause {gap_s:.1} s"));
    round.site.lan.block(other, host, false);
    round.site.cable.heal_both(round.other);
    round.site.wait_paired(PAIR_LIMIT)?;
    vcpus.ran_once(&round.site.timeline)?;
    round.end()
}

/// The witness may have granted what nobody heard; the same request gets the same answer.
fn one_way_witness(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let host = lan_mac(round.host);
    round.site.lan.block(crate::gateway::MAC, host, true);
    round.site.timeline.note("wan", "answers of HQ do not reach the VM's server");
    round.site.server(round.other).kill();
    round.fault("the other server loses power");
    round.site.server(round.host).wait_status("frozen", MINUTE, |status| {
        (status.server.pair.cause.contains("does not answer")).then_some(())
    })?;
    round.site.lan.block(crate::gateway::MAC, host, false);
    round.site.timeline.note("wan", "answers reach it again");
    round.serves()?;
    let gap_s = round.gap_s();
    round.site.timeline.note(VM, format!("paused for {gap_s:.1} s"));
    round.power_on(round.other)?;
    round.end()
}

/// The VM goes on each time; after the third loss the survivor keeps the other one up to date but
/// counts on it no more (R12), until the agent starts anew or two hours have passed.
fn flapping(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    for _ in 0..3 {
        round.part(true);
        round.fault("every way between the servers is cut");
        std::thread::sleep(Duration::from_secs(4));
        round.part(false);
        round.site.timeline.note("fault", "mended");
        std::thread::sleep(Duration::from_secs(8));
    }
    round.stayed()?;
    round.site.server(round.host).wait_status("the guard against flapping", MINUTE, |status| {
        let pair = &status.server.pair;
        let guarded = pair.state == PeerState::Solo && pair.cause.contains("again and again");
        guarded.then_some(())
    })?;
    round.site.timeline.note("pair", "the other server is only kept up to date from now on");
    round.nobody_rebooted()?;
    round.site.restart_agents()?;
    round.end()
}

/// Cut off from its peer and from HQ. The VM starts on the other one, and the loser lets go of its
/// own, without a reboot, once they meet again.
fn cut_off(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let vcpus = Vcpus::watch(round.site)?;
    round.cut_off(round.host, true);
    round.fault("the VM's server is cut off from its peer and from HQ");
    round.moved()?;
    round.cut_off(round.host, false);
    round.site.wait_paired(PAIR_LIMIT)?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM runs on the server that lost it");
    round.nobody_rebooted()?;
    vcpus.ran_once(&round.site.timeline)?;
    round.end()
}
