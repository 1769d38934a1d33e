// SPDX-License-Identifier: Apache-2.0
//! Disks that fail or stand still, below replication: the device mapper plays the broken disk.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::scenario::Scenario;
use crate::site::{Site, VM};
use anyhow::ensure;
use std::time::Duration;

pub const DISKS: &[Scenario] = &[
    Scenario {
        name: "slow-disk-other",
        about: "the disk of the server without the VM stands still for 30 s: that server is left behind",
        run: slow_disk_other,
    },
    Scenario {
        name: "disk-error-other",
        about: "a disk of the server without the VM fails: the VM does not notice",
        run: disk_error_other,
    },
    Scenario {
        name: "disk-error-host",
        about: "a disk of the VM's server fails: the VM goes on, here over the peer, or there",
        run: disk_error_host,
    },
];

/// The data volume below replication, as the device mapper calls it.
fn device() -> String {
    format!("forecourt-vm--{}--data", VM.replace('-', "--"))
}

fn slow_disk_other(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.exec(round.other, &format!("dmsetup suspend --noflush --nolockfs {}", device()))?;
    round.fault("a disk of the server without the VM stands still");
    std::thread::sleep(Duration::from_secs(30));
    round.exec(round.other, &format!("dmsetup resume {}", device()))?;
    round.site.timeline.note("fault", "it goes on");
    round.stayed()?;
    round.end()
}

fn disk_error_other(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    break_disk(&mut round, true)?;
    round.stayed()?;
    round.site.server(round.other).wait_status("the failed disk told of", MINUTE, |status| {
        let told = |text: &String| text.contains("disk of this server has failed");
        status.server.problems.iter().any(told).then_some(())
    })?;
    ensure!(round.site.host_of_vm()? == round.host, "the VM moved");
    mend_by_reboot(&mut round, true)?;
    round.end()
}

fn disk_error_host(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    break_disk(&mut round, false)?;
    round.site.server(round.host).wait_status("the failed disk told of", MINUTE, |status| {
        let told = |text: &String| text.contains("disk of this server has failed");
        status.server.problems.iter().any(told).then_some(())
    })?;
    round.serves()?;
    let (gap_s, now) = (round.gap_s(), round.site.host_of_vm()?);
    round.site.timeline.note(VM, format!("runs on {now}; out for {gap_s:.1} s"));
    round.site.wait_page(PAIR_LIMIT)?;
    mend_by_reboot(&mut round, false)?;
    round.end()
}

/// From now on every read and write of the volume below replication is an error.
fn break_disk(round: &mut Round, other: bool) -> anyhow::Result<()> {
    let name = if other { round.other } else { round.host };
    round.exec(name, &format!("dmsetup wipe_table --force --noflush {}", device()))?;
    round.fault("a disk below replication fails");
    Ok(())
}

/// The table of a healthy disk is read at boot.
fn mend_by_reboot(round: &mut Round, other: bool) -> anyhow::Result<()> {
    let name = if other { round.other } else { round.host };
    round.site.server(name).kill();
    round.power_on(name)
}
