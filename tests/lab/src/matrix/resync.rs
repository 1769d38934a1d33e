// SPDX-License-Identifier: Apache-2.0
//! Everything is copied anew while customers write.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::failover::check_verdict;
use crate::scenario::Scenario;
use crate::site::Site;
use crate::wait::{wait_every, wait_for};
use crate::writer::Writer;
use anyhow::{Context, ensure};
use std::time::Duration;

pub const RESYNC: &[Scenario] = &[Scenario {
    name: "busy-resync",
    about: "a server returns with every block to be copied while customers write all the time",
    run: busy_resync,
}];

/// Customers are watched for so long before the resync.
const CALM: Duration = Duration::from_secs(15);
/// Some 300 MiB a VM at the least rate (20 MiB/s) take 15 s; the lab's emulated servers share two processors
/// with all else, and have emulated guests on top.
const RESYNC_LIMIT: Duration = Duration::from_secs(600);
/// Between two looks.
const WINDOW: Duration = Duration::from_secs(2);
/// A customer who waits longer than this has been starved: longer than the copy that is kept before a
/// resync may hold writes up, and than the other server may be slow (6.3 s).
const STARVED_S: f64 = 10.0;

/// Declares each volume unknown that is not written here; prints their sizes in sectors.
const DISOWN: &str = "for m in $(sed -n 's/^ *\\([0-9]*\\): cs:[A-Za-z]* ro:Secondary.*/\\1/p' /proc/drbd); \
                      do /usr/lib/drbd/drbdsetup-84 invalidate $m && cat /sys/block/drbd$m/size; done";

/// The other server loses power, and everything it holds is declared unknown when it is back: as much
/// to be copied as there can be. Customers write without a pause meanwhile.
fn busy_resync(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (page, timeline) = (round.site.page.clone(), round.site.timeline.clone());
    let busy = [(); 3].map(|()| Writer::start_every(&page, &timeline, Duration::ZERO));
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    round.power_on(round.other)?;
    round.site.wait_paired(PAIR_LIMIT)?;
    let seen = copy_all(round.site, round.other, &busy)?;
    ensure!(seen.writes > 0.0, "nothing was acknowledged while the volumes were copied");
    ensure!(seen.longest_s < STARVED_S, "a customer waited for {:.1} s", seen.longest_s);
    for writer in busy {
        check_verdict(writer.finish()?)?;
    }
    round.end()
}

/// What became of customers and processors while everything was copied.
pub struct Copying {
    /// Acknowledged writes a second meanwhile.
    pub writes: f64,
    /// The longest time without one, in seconds.
    pub longest_s: f64,
}

/// Declares all that a server holds unknown, and waits until it is copied from the other one.
pub fn copy_all(site: &mut Site, to: &str, busy: &[Writer]) -> anyhow::Result<Copying> {
    let from = if to == "a" { "b" } else { "a" };
    let timeline = site.timeline.clone();
    let acked = || busy.iter().map(Writer::acked).sum::<usize>();
    let (calm_s, before) = (timeline.now_s(), acked());
    std::thread::sleep(CALM);
    let calm = rate(acked() - before, timeline.now_s() - calm_s);
    let text = site.server(to).exec(DISOWN)?.ok()?;
    let sectors: u64 = text.lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum();
    let mib = u32::try_from(sectors >> 11).context("more than 4 PiB to be copied")?;
    ensure!(mib > 0, "server {to} has no volume that could be copied anew: {text}");
    let start_s = timeline
        .note("fault", format!("the {mib} MiB that server {to} holds are declared unknown"));
    let (first, used_before) = (acked(), used_s(site, from)?);
    wait_for("the resync", MINUTE, || {
        Ok(kernel(site, to)?.contains("cs:SyncTarget").then_some(()))
    })?;
    wait_every("every block to be copied", RESYNC_LIMIT, WINDOW, || {
        Ok(all_equal(&kernel(site, to)?).then_some(()))
    })?;
    let end_s = timeline.now_s();
    let seconds = end_s - start_s;
    let writes = rate(acked() - first, seconds);
    let longest_s =
        busy.iter().map(|writer| writer.longest_wait_s(start_s, end_s)).fold(0.0, f64::max);
    let used = used_s(site, from)?;
    let [all, vms] = [0, 1].map(|at| used[at] - used_before[at]);
    let text = format!(
        "copied in {seconds:.0} s, {:.0} MiB/s; customers' writes a second {calm:.1} before, {writes:.1} \
         meanwhile, longest wait for one {longest_s:.1} s; of {all:.0} s of server {from}'s processor its VMs had \
         {vms:.0}",
        f64::from(mib) / seconds
    );
    timeline.note("lab", text);
    Ok(Copying { writes, longest_s })
}

/// Processor seconds that a server has used since its start, and its VMs' part of them.
fn used_s(site: &mut Site, name: &str) -> anyhow::Result<[f64; 2]> {
    let read = "cd /sys/fs/cgroup && head -n1 cpu.stat && \
                cat system.slice/forecourt-vm-*.service/cpu.stat | grep ^usage_usec";
    let text = site.server(name).exec(read)?.ok()?;
    let number = |line: &str| line.strip_prefix("usage_usec ")?.trim().parse::<f64>().ok();
    let used: Vec<f64> = text.lines().filter_map(number).map(|us| us / 1e6).collect();
    let all = *used.first().with_context(|| format!("no processor time in {text:?}"))?;
    Ok([all, used[1..].iter().sum()])
}

/// Whether each volume is connected and whole on both servers; one that waits for its turn is not.
fn all_equal(kernel: &str) -> bool {
    let mut volumes = kernel.lines().filter(|line| line.contains(" cs:")).peekable();
    let equal = |line: &str| line.contains("cs:Connected") && line.contains("ds:UpToDate/UpToDate");
    volumes.peek().is_some() && volumes.all(equal)
}

/// What the kernel says of a server's volumes.
fn kernel(site: &mut Site, name: &str) -> anyhow::Result<String> {
    site.server(name).exec("cat /proc/drbd")?.ok()
}

fn rate(writes: usize, seconds: f64) -> f64 {
    let writes = u32::try_from(writes).unwrap_or(u32::MAX);
    f64::from(writes) / seconds.max(0.001)
}

#[cfg(test)]
mod tests {
    use super::all_equal;

    #[test]
    fn a_volume_that_waits_for_its_turn_is_not_equal_yet() {
        let done = " 0: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----\n";
        let next = " 1: cs:WFSyncUUID ro:Secondary/Primary ds:Outdated/UpToDate C r-p---\n";
        assert!(all_equal(done));
        assert!(!all_equal(&format!("{done}{next}")));
        assert!(!all_equal("version: 8.4.11\n"));
    }
}
