// SPDX-License-Identifier: Apache-2.0
//! Servers that lose power, panic or stop, and the order in which they return.

use super::round::{MINUTE, Round};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{Site, VM};
use crate::wait::wait_for;
use anyhow::ensure;
use provisioning_protocol::peer::PeerState;
use std::time::Duration;

pub const POWER: &[Scenario] = &[
    Scenario {
        name: "power-loss-other",
        about: "the server without the VM loses power: the VM pauses for seconds",
        run: power_loss_other,
    },
    Scenario {
        name: "kernel-panic",
        about: "the kernel of the VM's server panics: the VM moves, the server boots by itself",
        run: kernel_panic,
    },
    Scenario {
        name: "server-hangs-and-wakes",
        about: "the VM's server stands still for 45 s: the VM moves, nothing it wakes with is kept",
        run: hang_and_wake,
    },
    Scenario {
        name: "staggered-return-stale-first",
        about: "both servers die in turn; the one that missed writes returns first and starts nothing",
        run: stale_first,
    },
    Scenario {
        name: "staggered-return-good-first",
        about: "both servers die in turn; the one with every write returns first and serves alone",
        run: good_first,
    },
    Scenario {
        name: "lost-during-resync",
        about: "the good server dies while the other is being brought up to date: nobody serves, and the \
                whole copy from before stays",
        run: lost_during_resync,
    },
];

fn power_loss_other(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    round.power_on(round.other)?;
    round.end()
}

fn kernel_panic(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    // The answer cannot come.
    let panic = "echo c > /proc/sysrq-trigger";
    let _ = round.site.server(round.host).exec_for(panic, Duration::from_secs(1));
    round.fault("the kernel of the VM's server panics");
    round.moved()?;
    round.rebooted(round.host)?;
    round.end()
}

/// What it had in flight gets no acknowledgement, and it is evicted or reset.
fn hang_and_wake(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.server(round.host).freeze()?;
    round.fault("the VM's server stands still");
    std::thread::sleep(Duration::from_secs(45));
    round.site.server(round.host).thaw()?;
    round.moved()?;
    round.site.wait_paired(super::round::PAIR_LIMIT)?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM runs on the server that hung");
    round.end()
}

fn stale_first(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    round.site.server(round.host).kill();
    round.power_on(round.other)?;
    let limit = BOOT_LIMIT;
    round.site.server(round.other).wait_status("out of sync and waiting", limit, |status| {
        let pair = &status.server.pair;
        let out = pair.state == PeerState::Wait && !pair.in_sync.is_empty();
        (out && pair.cause.contains("Out of sync")).then_some(())
    })?;
    round.site.timeline.note(round.other, "knows that it missed writes, and waits");
    round.nobody_serves(Duration::from_secs(30))?;
    round.power_on(round.host)?;
    round.serves()?;
    round.end()
}

fn good_first(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    round.site.server(round.host).kill();
    let dark_s = round.site.timeline.now_s();
    round.power_on(round.host)?;
    round.serves()?;
    let seconds = round.site.timeline.now_s() - dark_s;
    let text = format!("serves {seconds:.1} s after power-on, with one server and nobody's help");
    round.site.timeline.note(VM, text);
    round.power_on(round.other)?;
    round.end()
}

/// The other server missed writes while it was parted, and gets them back; in the middle of that the
/// only whole copy of the newest data goes dark. What the other one held before is kept.
fn lost_during_resync(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    round.part(true);
    round.fault("every way between the servers is cut");
    round.serves()?;
    round.site.server(round.other).wait_status("no vote", MINUTE, |status| {
        (status.server.pair.state == PeerState::Wait).then_some(())
    })?;
    let volumes = round.exec(round.other, "grep -c cs: /proc/drbd")?.trim().parse::<usize>()?;
    wait_for("a copy of each volume", 2 * MINUTE, || {
        Ok((kept_copies(&mut round)? == volumes).then_some(()))
    })?;
    let text = format!("keeps its {volumes} volumes as they are");
    round.site.timeline.note(round.other, text);
    let setup = "/usr/lib/drbd/drbdsetup-84";
    let minors = "sed -n 's/^ *\\([0-9]*\\): cs:.*/\\1/p' /proc/drbd";
    // A low rate would not do: what lies side by side is asked for a megabyte at a time.
    let all = |order: &str| format!("for m in $({minors}); do {setup} {order} $m; done");
    round.exec(round.other, &all("pause-sync"))?;
    // Of its system disk the guest writes the end only: all before is written anew, with what it holds.
    let minor = format!(
        "{setup} events2 all --now | sed -n 's/.*device name:{VM}-system .*minor:\\([0-9]*\\).*/\\1/p'"
    );
    let rewrite = format!(
        "d=/dev/drbd$({minor}); n=$(($(blockdev --getsize64 $d) / 1048576 - 1)); \
         dd if=$d of=$d bs=1M count=$n conv=notrunc,fsync 2>&1"
    );
    let wrote = round.exec(round.host, &rewrite)?;
    round.site.timeline.note(round.host, format!("wrote: {}", wrote.trim().replace('\n', ", ")));
    round.part(false);
    wait_for("a resync begun", MINUTE, || {
        let text = round.exec(round.other, "cat /proc/drbd")?;
        Ok((text.matches("cs:PausedSyncT").count() == volumes).then_some(()))
    })?;
    round.serves()?;
    round.site.server(round.host).kill();
    round.nobody_serves(Duration::from_secs(45))?;
    let status = round.site.server(round.other).status()?;
    ensure!(status.server.pair.state != PeerState::Solo, "half a copy goes on alone");
    ensure!(status.older_data.is_some(), "no whole copy is offered: {:?}", status.events);
    let told = |text: &String| text.contains("half copied");
    ensure!(
        status.server.problems.iter().any(told),
        "nobody is told: {:?}",
        status.server.problems
    );
    ensure!(kept_copies(&mut round)? == volumes, "a copy from before is gone");
    round.exec(round.other, &all("resume-sync"))?;
    round.power_on(round.host)?;
    round.serves()?;
    round.site.wait_paired(super::round::PAIR_LIMIT)?;
    wait_for("the copies to be dropped", MINUTE, || {
        Ok((kept_copies(&mut round)? == 0).then_some(()))
    })?;
    round.end()
}

/// How many copies from before a resync the other server keeps.
fn kept_copies(round: &mut Round) -> anyhow::Result<usize> {
    let text = round.exec(round.other, "lvs --noheadings -o lv_name forecourt")?;
    Ok(text.lines().filter(|line| line.contains(".before-")).count())
}
