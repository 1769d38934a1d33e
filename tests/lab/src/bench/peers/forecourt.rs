// SPDX-License-Identifier: Apache-2.0
//! Forecourt's server loses power, and its BMC does not.

use crate::bench::sample::{Clock, KILL_PHASES, Sample, wait_serving};
use crate::matrix::bmc::Bmc;
use crate::matrix::round::{MINUTE, PAIR_LIMIT, Round};
use crate::site::Site;
use crate::wait::wait_for;

pub fn with_bmc(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    let mut bmc = Bmc::fit(round.site, host)?;
    bmc.wait_looked()?;
    let clock = Clock::of(&mut round, other)?;
    let killed_s = round.site.server(host).kill();
    bmc.power_lost()?;
    let serving_s = wait_serving(&round, killed_s)?;
    let wanted = [&KILL_PHASES[..], &[("confirmed_off_s", "fenced")]].concat();
    let mut phases = clock.phases(&mut round, &wanted, killed_s)?;
    phases.insert("serving_s", serving_s - killed_s);
    wait_for("the server to be switched on again", 2 * MINUTE, || {
        bmc.obey(round.site, host)?;
        Ok(round.site.server(host).is_on().then_some(()))
    })?;
    let on_s = round.site.timeline.now_s();
    round.site.wait_paired(PAIR_LIMIT)?;
    bmc.remove(round.site, host)?;
    Sample::close(round, phases, on_s)
}
