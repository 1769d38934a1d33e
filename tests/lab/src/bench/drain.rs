// SPDX-License-Identifier: Apache-2.0
//! The VM's server is drained and the VM goes over while it runs: how long its customers wait.

use super::sample::{Phases, Sample};
use crate::matrix::moves::{drain_host, undrain, went_live};
use crate::matrix::round::Round;
use crate::site::Site;
use anyhow::{Context, ensure};

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let prober = round.probe()?;
    let start_s = round.site.timeline.now_s();
    drain_host(&mut round)?;
    let drained_s = round.site.timeline.now_s() - start_s;
    round.serves()?;
    let host = round.host;
    // A guest that was restarted measures something else.
    ensure!(went_live(&mut round, host)?, "the VM was moved by a restart");
    let pause_s = prober.longest_gap_s(start_s).context("The guest answers no probe")?;
    drop(prober);
    let phases = Phases::from([
        ("pause_s", pause_s),
        ("customer_pause_s", round.gap_s()),
        ("drained_s", drained_s),
    ]);
    let end_s = round.site.timeline.now_s();
    undrain(&round)?;
    round.nobody_alone()?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM is not on the other server");
    Sample::close(round, phases, end_s)
}
