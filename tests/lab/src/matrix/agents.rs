// SPDX-License-Identifier: Apache-2.0
//! Agents that hang.

use super::round::{MINUTE, Round};
use crate::scenario::Scenario;
use crate::site::Site;
use anyhow::ensure;

pub const AGENTS: &[Scenario] = &[
    Scenario {
        name: "agents-restart",
        about: "HQ silent, both agents started anew at once, ten times: replication never breaks",
        run: agents_restart,
    },
    Scenario {
        name: "agent-hangs",
        about: "the agent hangs for good: the watchdog resets its server, the VM moves",
        run: agent_hangs,
    },
    Scenario {
        name: "agent-hangs-cut-off",
        about: "the agent hangs and its server is cut off at once: nobody answers the kernel there",
        run: agent_hangs_cut_off,
    },
];

const RESTARTS: u32 = 10;
const STOP: &str = "kill -STOP $(systemctl show -P MainPID forecourt-agent)";

fn agent_hangs(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.exec(round.host, STOP)?;
    round.fault("the agent of the VM's server is stopped");
    round.moved()?;
    round.rebooted(round.host)?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM runs where the agent hung");
    round.end()
}

fn agent_hangs_cut_off(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.exec(round.host, STOP)?;
    round.cut_off(round.host, true);
    round.fault("the agent of the VM's server is stopped, the server cut off");
    round.moved()?;
    round.cut_off(round.host, false);
    round.rebooted(round.host)?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM runs where the agent hung");
    round.end()
}

/// Ten times, since what it looks for would be a matter of milliseconds.
fn agents_restart(site: &mut Site) -> anyhow::Result<()> {
    site.cut_wan();
    site.wait_tie_on_site(site.host_of_vm()?)?;
    let mut round = Round::begin(site)?;
    let before = breaks(&mut round)?;
    for count in 1..=RESTARTS {
        round.fault(&format!("both agents are started anew, {count} of {RESTARTS}"));
        round.site.restart_agents()?;
        round.serves()?;
        round.site.wait_paired(MINUTE)?;
        round.stayed()?;
        let now = breaks(&mut round)?;
        ensure!(now == before, "replication broke: {before:?} times before, {now:?} times now");
    }
    round.nobody_alone()?;
    round.nobody_rebooted()?;
    round.site.heal_wan();
    round.site.wait_tie_at_hq()?;
    round.end()
}

/// How often each server's kernel has lost its connection to the other one since it booted.
fn breaks(round: &mut Round) -> anyhow::Result<[String; 2]> {
    const COUNT: &str = "journalctl -k -b --no-pager | grep -c 'conn( Connected -> ' || true";
    Ok([round.exec("a", COUNT)?.trim().to_owned(), round.exec("b", COUNT)?.trim().to_owned()])
}
