// SPDX-License-Identifier: Apache-2.0
//! A full site: eight VMs with two replicated volumes each, four on each server. It comes last, as
//! the VMs stay.

use super::resync::copy_all;
use super::round::{MINUTE, compare_copies};
use crate::failover::{check_verdict, wait_acks};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{PlannedVm, Site, VM, blueprint_text};
use crate::wait::{wait_every, wait_for};
use crate::writer::{Page, Writer};
use anyhow::{bail, ensure};
use provisioning_protocol::report::VmPhase;
use std::time::Duration;

pub const LOAD: &[Scenario] = &[Scenario {
    name: "load",
    about: "eight VMs, 16 volumes: a server dies, all eight serve on the other with every write; then every \
            block is copied to it while they write",
    run: load,
}];

const VMS: usize = 8;
/// Each VM is booted by an emulator inside an emulated processor, which all of them share.
const SERVING_LIMIT: Duration = Duration::from_secs(900);
const PAIR_LIMIT: Duration = Duration::from_secs(600);
/// Between two entries of one of the eight customers.
const PAUSE: Duration = Duration::from_millis(500);
const ACKS: usize = 5;

fn load(site: &mut Site) -> anyhow::Result<()> {
    let pages = grow(site)?;
    let writers: Vec<Writer> =
        pages.iter().map(|page| Writer::start_every(page, &site.timeline, PAUSE)).collect();
    serve(&writers)?;
    site.wait_paired(PAIR_LIMIT)?;
    let counts = running(site)?;
    site.timeline.note("lab", format!("A runs {} VMs, B {}", counts[0], counts[1]));
    ensure!(counts[0] + counts[1] == VMS, "{counts:?} VMs run");
    let (victim, survivor) = if counts[1] > counts[0] { ("b", "a") } else { ("a", "b") };
    let killed_s = site.server(victim).kill();
    site.timeline.note("fault", format!("server {victim} loses power"));
    let served = served_again(&writers, killed_s)?;
    let (first, last) = (served[0], served[VMS - 1]);
    let text = format!("all serve: the first {first:.1} s after the kill, the last {last:.1} s");
    site.timeline.note("lab", text);
    let at = usize::from(survivor == "b");
    ensure!(running(site)?[at] == VMS, "not all VMs run on server {survivor}");
    site.server(victim).power_on()?;
    site.server(victim).wait_booted(BOOT_LIMIT)?;
    site.wait_paired(PAIR_LIMIT)?;
    serve(&writers)?;
    // Eight emulated guests and the copying share one emulated processor, so how customers fare is told and not
    // judged; that they are served afterwards is.
    copy_all(site, victim, &writers)?;
    serve(&writers)?;
    site.wait_paired(PAIR_LIMIT)?;
    let mut acked = 0;
    for writer in writers {
        let verdict = writer.finish()?;
        check_verdict(verdict)?;
        acked += verdict.acked;
    }
    site.timeline.note("lab", format!("{acked} writes acknowledged by {VMS} VMs, none is gone"));
    compare_copies(site)
}

/// Gives the site eight VMs; returns their pages. Homes are such that each
/// server runs four.
fn grow(site: &mut Site) -> anyhow::Result<Vec<Page>> {
    let host = site.host_of_vm()?.to_uppercase();
    let other = if host == "A" { "B" } else { "A" };
    let mut vms = vec![PlannedVm { name: VM.to_owned(), home: None, address: None }];
    let mut pages = vec![site.page.clone()];
    for number in 1..VMS {
        let home = if number.is_multiple_of(2) { host.as_str() } else { other };
        let address = format!("10.0.2.{}", 100 + number);
        pages.push(Page::new(site.gateway.forward(&address, 80)?));
        let name = format!("bay-{number}");
        vms.push(PlannedVm { name, home: Some(home.to_owned()), address: Some(address) });
    }
    let file = site.run.path().join("eight.yaml");
    std::fs::write(&file, blueprint_text(&vms))?;
    site.hq.cli(&["blueprint", "apply", &file.display().to_string()])?;
    let start_s = site.timeline.note("hq", format!("the site's blueprint has {VMS} VMs"));
    wait_every("eight VMs to run", SERVING_LIMIT, Duration::from_secs(3), || {
        let counts = running(site)?;
        if counts[0] + counts[1] < VMS {
            bail!("A runs {}, B {}", counts[0], counts[1]);
        }
        Ok(Some(()))
    })?;
    let seconds = site.timeline.now_s() - start_s;
    site.timeline.note("lab", format!("{VMS} VMs run after {seconds:.0} s"));
    Ok(pages)
}

/// Each page acknowledges writes.
fn serve(writers: &[Writer]) -> anyhow::Result<()> {
    writers.iter().try_for_each(|writer| wait_acks(writer, writer.acked() + ACKS, 5 * MINUTE))
}

/// Seconds from the kill to each VM's first acknowledgement after it, in order. Those of the
/// survivor pause for seconds only.
fn served_again(writers: &[Writer], killed_s: f64) -> anyhow::Result<Vec<f64>> {
    let mut seconds = writers
        .iter()
        .map(|writer| {
            wait_for("each page after the kill", SERVING_LIMIT, || {
                Ok(writer.first_ack_after(killed_s + 0.5))
            })
            .map(|at_s| at_s - killed_s)
        })
        .collect::<anyhow::Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// How many VMs A and B run.
fn running(site: &Site) -> anyhow::Result<[usize; 2]> {
    let count = |server: &crate::server::Server| -> anyhow::Result<usize> {
        if !server.is_on() {
            return Ok(0);
        }
        let runs = |phase| matches!(phase, VmPhase::Running | VmPhase::Healthy);
        Ok(server.status()?.server.vms.iter().filter(|vm| runs(vm.phase)).count())
    };
    Ok([count(&site.a)?, count(&site.b)?])
}
