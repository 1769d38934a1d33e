// SPDX-License-Identifier: Apache-2.0
//! The WAN is cut and the tie-break lies on the server without the VM; the VM's server dies.
//!
//! The tie-break goes to the server that runs the VM. So that the survivor has it, the VM moves
//! first: its server dies, a person says so at the other one's console, the dead one returns.

use super::sample::{Phases, Sample, kill_host, power_on, wait_serving};
use crate::matrix::round::{MINUTE, Round};
use crate::site::Site;
use crate::{console, failover};
use provisioning_protocol::peer::PeerState;

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut phases = Phases::new();
    if !holds_on_site(site, true)? {
        site.cut_wan();
        site.wait_tie_on_site(site.host_of_vm()?)?;
    }
    if !holds_on_site(site, false)? {
        phases.extend(declare_away(site)?);
    }
    let mut round = Round::begin(site)?;
    phases.extend(kill_host(&mut round)?);
    let host = round.host;
    let on_s = power_on(&mut round, host)?;
    Sample::close(round, phases, on_s)
}

/// Heals what the runs left.
pub fn end(site: &mut Site) -> anyhow::Result<()> {
    site.heal_wan();
    site.wait_tie_at_hq()
}

/// Whether the tie-break lies on the server with the VM, or on the other one.
fn holds_on_site(site: &Site, either: bool) -> anyhow::Result<bool> {
    let host = site.host_of_vm()?;
    let cause = site.a.status()?.server.pair.cause;
    let words = |name: &str| format!("server {} goes on alone", name.to_uppercase());
    let other = if host == "a" { "b" } else { "a" };
    Ok(cause.contains(&words(other)) || (either && cause.contains(&words(host))))
}

/// The holder dies, and a person's word moves its VM; measured as well.
fn declare_away(site: &mut Site) -> anyhow::Result<Phases> {
    let mut round = Round::begin(site)?;
    let (holder, survivor) = (round.host, round.other);
    round.site.server(holder).kill();
    round.site.server(survivor).wait_status("frozen, and why", MINUTE, |status| {
        let pair = &status.server.pair;
        let stuck = pair.state == PeerState::Suspect && pair.cause.contains("only the other");
        stuck.then_some(())
    })?;
    console::declare_peer_off(round.site.server(survivor))?;
    let said_s = round.site.timeline.note(survivor, "declared: the other server is off");
    let serving_s = wait_serving(&round, said_s)?;
    power_on(&mut round, holder)?;
    round.site.wait_paired(crate::matrix::round::PAIR_LIMIT)?;
    round.site.wait_tie_on_site(holder)?;
    failover::check_verdict(round.finish()?.0)?;
    Ok(Phases::from([("word_to_serving_s", serving_s - said_s)]))
}
