// SPDX-License-Identifier: Apache-2.0
//! A witness on site: with the WAN down, a small box says who may go on.

use super::round::Round;
use crate::scenario::Scenario;
use crate::site::Site;
use crate::witness_box::WitnessBox;

pub const BOXES: &[Scenario] = &[Scenario {
    name: "on-site-witness",
    about: "HQ is silent, a box on site has the tie-break, the VM's server dies: the VM moves",
    run: on_site_witness,
}];

fn on_site_witness(site: &mut Site) -> anyhow::Result<()> {
    let witness = WitnessBox::fit(site)?;
    let outcome = witness.wait_asked(site).and_then(|()| without_hq(site));
    if !site.hq.is_running() {
        site.hq.start()?;
    }
    let removed = witness.remove(site).and_then(|()| site.wait_tie_at_hq());
    outcome.and(removed)
}

fn without_hq(site: &mut Site) -> anyhow::Result<()> {
    site.hq.kill();
    let mut round = Round::begin(site)?;
    let host = round.host;
    round.site.server(host).kill();
    round.fault("the VM's server loses power");
    round.moved()?;
    round.power_on(host)?;
    round.end()
}
