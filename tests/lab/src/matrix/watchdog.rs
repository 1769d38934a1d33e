// SPDX-License-Identifier: Apache-2.0
//! A server without a watchdog: nothing resets it, so its loss proves nothing by itself (R11).

use super::round::{PAIR_LIMIT, Round};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{Site, VM};
use anyhow::ensure;
use provisioning_protocol::peer::PeerState;
use std::time::Duration;

pub const WATCHDOG: &[Scenario] = &[Scenario {
    name: "no-watchdog",
    about: "the VM's server has no watchdog and dies: its VM waits until a person says that it is off",
    run: no_watchdog,
}];

/// Well past T_fence (25 s), after which the VM of a server with a watchdog starts.
const NOT_TIMED_OUT: Duration = Duration::from_secs(60);

fn no_watchdog(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    for name in [host, other] {
        round.site.server(name).kill();
    }
    round.site.server(host).set_watchdog(false);
    for name in [host, other] {
        round.site.server(name).power_on()?;
    }
    round.site.server(host).wait_status("the watchdog missed, in words", BOOT_LIMIT, |status| {
        let told = |text: &String| text.contains("No watchdog");
        status.server.problems.iter().any(told).then_some(())
    })?;
    round.site.server(other).wait_booted(BOOT_LIMIT)?;
    round.site.wait_paired(PAIR_LIMIT)?;
    round.serves()?;
    ensure!(round.site.host_of_vm()? == host, "the VM does not run where it ran");

    round.site.server(host).kill();
    round.fault("the VM's server, which has no watchdog, loses power");
    round.site.server(other).wait_status("alone, and why it waits", BOOT_LIMIT, |status| {
        let pair = &status.server.pair;
        let waits = pair.state == PeerState::Solo && pair.cause.contains("no armed watchdog");
        waits.then_some(())
    })?;
    round.nobody_serves(NOT_TIMED_OUT)?;
    crate::console::declare_peer_off(round.site.server(other))?;
    let said_s = round.site.timeline.note(other, "a person has said that the other one is off");
    round.serves()?;
    let serving_s = round.first_ack_after(said_s).unwrap_or(said_s);
    round.site.timeline.note(VM, format!("serves {:.1} s after the word", serving_s - said_s));
    round.site.server(host).set_watchdog(true);
    round.power_on(host)?;
    round.end()
}
