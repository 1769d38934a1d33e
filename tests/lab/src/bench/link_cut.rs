// SPDX-License-Identifier: Apache-2.0
//! Every way between the servers is cut, HQ answers both: how long the VM stands still.

use super::sample::{Clock, Phases, Sample};
use crate::matrix::round::Round;
use crate::site::Site;

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let host = round.host;
    let clock = Clock::of(&mut round, host)?;
    let cut_s = round.site.timeline.now_s();
    round.part(true);
    round.fault("every way between the servers is cut");
    round.stayed()?;
    // A pause may begin after the first writes: detection is by time.
    std::thread::sleep(std::time::Duration::from_secs(10));
    round.stayed()?;
    let wanted = [("detect_s", "peer_lost"), ("grant_s", "grant")];
    let mut phases: Phases = clock.phases(&mut round, &wanted, cut_s)?;
    phases.insert("pause_s", round.gap_s());
    let healed_s = round.site.timeline.now_s();
    round.part(false);
    Sample::close(round, phases, healed_s)
}
