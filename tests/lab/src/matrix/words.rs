// SPDX-License-Identifier: Apache-2.0
//! A person's word that was not true: both servers go on, and one of the two is given up.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::scenario::Scenario;
use crate::site::{Site, VM};
use anyhow::ensure;
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::LocalStatus;
use std::time::Duration;

pub const WORDS: &[Scenario] = &[Scenario {
    name: "wrong-word",
    about: "a person says that the other server is off, and it is not: neither takes the other's data \
            before a person gives one up",
    run: wrong_word,
}];

/// A guest boots, and writes to its disks.
const BOOTED: Duration = Duration::from_secs(180);
/// Both know of each other, and nobody chooses.
const UNDECIDED: Duration = Duration::from_secs(20);

fn wrong_word(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    // Customers reach one of the two only: else both would acknowledge their writes.
    round.part(true);
    round.site.lan.cut_both(other);
    round.fault("the other server is cut off from everybody");
    round.serves()?;
    crate::console::declare_peer_off(round.site.server(other))?;
    round.site.timeline.note(other, "a person said, wrongly, that the other one is off");
    round.site.server(other).wait_status("the VM there, too", BOOTED, |status| {
        let runs = |phase| matches!(phase, VmPhase::Running | VmPhase::Healthy);
        status.server.vms.iter().any(|vm| runs(vm.phase)).then_some(())
    })?;
    ensure!(state(&mut round, host)? == PeerState::Solo, "the VM's server does not go on");

    round.site.cable.heal_both("a");
    let met_s = round.site.timeline.note("fault", "the direct cable is mended");
    for name in [host, other] {
        round.site.server(name).wait_status("that the data differs", MINUTE, |status| {
            (status.diverged && told(status)).then_some(())
        })?;
    }
    std::thread::sleep(UNDECIDED);
    for name in [host, other] {
        ensure!(state(&mut round, name)? == PeerState::Solo, "{name} gave way without a word");
    }
    let text = format!("{:.0} s after they met", round.site.timeline.now_s() - met_s);
    round
        .site
        .timeline
        .note("pair", format!("both go on, and say that their data differs, {text}"));

    crate::console::give_up_data(round.site.server(other))?;
    round.site.timeline.note(other, "a person gave up what this one holds");
    round.site.server(other).wait_status("a copy from the other one", PAIR_LIMIT, |status| {
        let codes = || status.events.iter().map(|event| event.code.as_str());
        (codes().any(|code| code == "given_up") && status.server.pair.in_sync.len() == 2)
            .then_some(())
    })?;
    round.site.lan.heal_both(other);
    round.part(false);
    round.site.wait_paired(PAIR_LIMIT)?;
    ensure!(round.site.host_of_vm()? == host, "the VM runs on the server that was given up");
    let gap_s = round.gap_s();
    round.site.timeline.note(VM, format!("customers waited for {gap_s:.1} s at most"));
    round.end()
}

fn told(status: &LocalStatus) -> bool {
    status.server.problems.iter().any(|text| text.contains("has diverged"))
}

fn state(round: &mut Round, name: &str) -> anyhow::Result<PeerState> {
    Ok(round.site.server(name).status()?.server.pair.state)
}
