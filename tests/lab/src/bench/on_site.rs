// SPDX-License-Identifier: Apache-2.0
//! A witness on site, HQ is silent; the VM's server loses power.

use super::sample::{Sample, kill_host, power_on};
use crate::matrix::round::Round;
use crate::site::Site;
use crate::witness_box::WitnessBox;
use anyhow::Context;

/// Sets the box up if it is not there, and silences HQ.
pub fn run(site: &mut Site, witness: &mut Option<WitnessBox>) -> anyhow::Result<Sample> {
    if witness.is_none() {
        *witness = Some(WitnessBox::fit(site)?);
    }
    witness.as_ref().context("No box")?.wait_asked(site)?;
    if site.hq.is_running() {
        site.hq.kill();
    }
    let mut round = Round::begin(site)?;
    let phases = kill_host(&mut round)?;
    let host = round.host;
    let on_s = power_on(&mut round, host)?;
    Sample::close(round, phases, on_s)
}

/// HQ answers again, the box is gone.
pub fn end(site: &mut Site, witness: &mut Option<WitnessBox>) -> anyhow::Result<()> {
    if !site.hq.is_running() {
        site.hq.start()?;
    }
    if let Some(witness) = witness.take() {
        witness.remove(site)?;
    }
    site.wait_tie_at_hq()
}
