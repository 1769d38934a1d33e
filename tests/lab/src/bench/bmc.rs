// SPDX-License-Identifier: Apache-2.0
//! The VM's server hangs for good and its BMC switches it off; see the lab's `bmc-off`.

use super::sample::{Clock, KILL_PHASES, Sample};
use crate::matrix::bmc::Bmc;
use crate::matrix::round::{MINUTE, Round};
use crate::site::Site;
use crate::wait::wait_for;

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    let mut bmc = Bmc::fit(round.site, host)?;
    bmc.wait_looked()?;
    let clock = Clock::of(&mut round, other)?;
    let fault_s = round.site.server(host).freeze()?;
    round.fault("the VM's server stands still for good");
    let serving_s = wait_for("the page on the other server", 4 * MINUTE, || {
        bmc.obey(round.site, host)?;
        Ok(round.first_ack_after(fault_s + 1.0))
    })?;
    let wanted = [&KILL_PHASES[..], &[("confirmed_off_s", "fenced")]].concat();
    let mut phases = clock.phases(&mut round, &wanted, fault_s)?;
    phases.insert("serving_s", serving_s - fault_s);
    phases.insert("off_to_started_s", phases["started_s"] - phases["confirmed_off_s"]);
    wait_for("the server to be switched on again", 2 * MINUTE, || {
        bmc.obey(round.site, host)?;
        Ok(round.site.server(host).is_on().then_some(()))
    })?;
    let on_s = round.site.timeline.now_s();
    let sample = {
        round.site.wait_paired(crate::matrix::round::PAIR_LIMIT)?;
        bmc.remove(round.site, host)?;
        Sample::close(round, phases, on_s)?
    };
    Ok(sample)
}
