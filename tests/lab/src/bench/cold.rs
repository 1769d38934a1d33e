// SPDX-License-Identifier: Apache-2.0
//! Both servers lose power; both, or one alone, get it back, and nobody helps.

use super::sample::{Phases, Sample, power_on, wait_serving};
use crate::matrix::round::Round;
use crate::server::BOOT_LIMIT;
use crate::site::Site;

pub fn both(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let on_s = dark(&mut round);
    round.site.a.power_on()?;
    round.site.b.power_on()?;
    let serving_s = wait_serving(&round, on_s)?;
    let phases = Phases::from([("serving_s", serving_s - on_s)]);
    for server in [&round.site.a, &round.site.b] {
        server.wait_booted(BOOT_LIMIT)?;
    }
    Sample::close(round, phases, on_s)
}

/// The one that ran the VM returns first; it may not know whether the other one has newer data.
pub fn one(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let on_s = dark(&mut round);
    round.site.server(round.host).power_on()?;
    let serving_s = wait_serving(&round, on_s)?;
    let phases = Phases::from([("serving_s", serving_s - on_s)]);
    let other = round.other;
    let other_s = power_on(&mut round, other)?;
    Sample::close(round, phases, other_s)
}

/// Both go dark; returns when.
fn dark(round: &mut Round) -> f64 {
    round.site.a.kill();
    round.site.b.kill();
    round.fault("both servers lose power");
    round.site.timeline.now_s()
}
