// SPDX-License-Identifier: Apache-2.0
//! HQ answers; the VM's server loses power.

use super::sample::{Sample, kill_host, power_on};
use crate::matrix::round::Round;
use crate::site::Site;

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let phases = kill_host(&mut round)?;
    let host = round.host;
    let on_s = power_on(&mut round, host)?;
    Sample::close(round, phases, on_s)
}
