// SPDX-License-Identifier: Apache-2.0
//! Clocks that jump by ten years while a server dies: no rule reads one.

use super::round::Round;
use crate::scenario::Scenario;
use crate::site::Site;

pub const CLOCKS: &[Scenario] = &[
    Scenario {
        name: "clock-forward",
        about: "a server's clock jumps ten years ahead, and the VM's server dies: the VM moves there",
        run: forward,
    },
    Scenario {
        name: "clock-back",
        about: "the clock of the VM's server jumps ten years back, and the other one dies: it goes on",
        run: back,
    },
];

const TEN_YEARS_S: i64 = 10 * 365 * 24 * 3600;

fn step(round: &mut Round<'_>, name: &'static str, seconds: i64) -> anyhow::Result<()> {
    let now = round.exec(name, &format!("date -s @$(($(date +%s) + {seconds})) +%F"))?;
    round.site.timeline.note(name, format!("its clock says {}", now.trim()));
    Ok(())
}

fn forward(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    step(&mut round, other, TEN_YEARS_S)?;
    round.site.server(host).kill();
    round.fault("the VM's server loses power");
    round.moved()?;
    step(&mut round, other, -TEN_YEARS_S)?;
    round.power_on(host)?;
    round.end()
}

fn back(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    step(&mut round, host, -TEN_YEARS_S)?;
    round.site.server(other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    step(&mut round, host, TEN_YEARS_S)?;
    round.power_on(other)?;
    round.end()
}
