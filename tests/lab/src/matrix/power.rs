// SPDX-License-Identifier: Apache-2.0
//! Servers that lose power, panic or stop, and the order in which they return.

use super::round::{MINUTE, Round};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{Site, VM};
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
        about: "the good server dies while the other is being brought up to date: nobody serves",
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

/// Every block of the other server's copies is declared unknown and comes back slowly; meanwhile the
/// only whole copy goes dark.
fn lost_during_resync(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let setup = "/usr/lib/drbd/drbdsetup-84";
    let minors = "sed -n 's/^ *\\([0-9]*\\): cs:.*/\\1/p' /proc/drbd";
    let slow = format!(
        "for m in $({minors}); do {setup} disk-options $m --c-plan-ahead=0 --resync-rate=64; \
         {setup} invalidate $m; done"
    );
    round.exec(round.other, &slow)?;
    round.fault("the other server's copies are declared unknown");
    round.site.server(round.other).wait_status("a resync", MINUTE, |status| {
        (status.server.pair.state == PeerState::Resync).then_some(())
    })?;
    round.serves()?;
    round.site.server(round.host).kill();
    round.nobody_serves(Duration::from_secs(45))?;
    let status = round.site.server(round.other).status()?;
    ensure!(status.server.pair.state != PeerState::Solo, "half a copy goes on alone");
    let fast = format!(
        "for m in $({minors}); do {setup} disk-options $m --c-plan-ahead=20 --c-min-rate=20480; done"
    );
    round.exec(round.other, &fast)?;
    round.power_on(round.host)?;
    round.serves()?;
    round.end()
}
