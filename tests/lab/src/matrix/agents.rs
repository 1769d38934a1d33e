// SPDX-License-Identifier: Apache-2.0
//! Agents that hang.

use super::round::Round;
use crate::scenario::Scenario;
use crate::site::Site;
use anyhow::ensure;

pub const AGENTS: &[Scenario] = &[
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
