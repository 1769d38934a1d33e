// SPDX-License-Identifier: Apache-2.0
//! One round of the matrix: a writer at work on a healthy pair, a fault, and what must hold at the
//! end: the pair is healthy, no acknowledged write is gone, both servers hold the same bytes.

use crate::failover::{check_verdict, wait_acks};
use crate::probe::Prober;
use crate::server::{BOOT_LIMIT, lan_mac};
use crate::site::{Site, VM, VM_ADDRESS};
use crate::wait::{wait_every, wait_for};
use crate::writer::{Verdict, Writer};
use anyhow::{Context, bail, ensure};
use std::time::Duration;

pub const MINUTE: Duration = Duration::from_secs(60);
/// From the end of a fault to a healthy pair.
pub const PAIR_LIMIT: Duration = Duration::from_secs(300);
/// From a fault to the page on the other server, as for a failover.
const SERVING_LIMIT: Duration = Duration::from_secs(240);
/// Comparing both copies block by block.
const COMPARE_LIMIT: Duration = Duration::from_secs(600);
/// Acknowledgements that show that the VM serves.
const ACKS: usize = 20;
/// A fault is noted when its cause has returned: what it did may have begun this long before.
const NOTED_LATE_S: f64 = 5.0;
/// A VM that was not moved pauses for less than this; a takeover takes T_fence (25 s) and a boot.
const STAYED_S: f64 = 24.0;

pub struct Round<'a> {
    pub site: &'a mut Site,
    /// The server on which the VM runs at the start.
    pub host: &'static str,
    /// The other one.
    pub other: &'static str,
    writer: Writer,
    boots: [String; 2],
    alone_ms: [u64; 2],
    fault_s: f64,
}

impl<'a> Round<'a> {
    pub fn begin(site: &'a mut Site) -> anyhow::Result<Self> {
        // A site that goes through three losses within an hour is guarded against the next (R12); an
        // agent that starts anew has seen none.
        site.restart_agents()?;
        site.wait_paired(PAIR_LIMIT)?;
        let host = site.host_of_vm()?;
        let other = if host == "a" { "b" } else { "a" };
        let writer = Writer::start(&site.page, &site.timeline);
        wait_acks(&writer, ACKS, 2 * MINUTE)?;
        let boots = [boot_id(site, "a")?, boot_id(site, "b")?];
        let alone_ms = last_alone_ms(site)?;
        let fault_s = site.timeline.now_s();
        Ok(Self { site, host, other, writer, boots, alone_ms, fault_s })
    }

    /// The fault happens now.
    pub fn fault(&mut self, text: &str) {
        self.fault_s = self.site.timeline.note("fault", text);
    }

    /// Waits for more acknowledgements from now on.
    pub fn serves(&self) -> anyhow::Result<()> {
        wait_acks(&self.writer, self.writer.acked() + ACKS, SERVING_LIMIT)
    }

    /// Waits until the page acknowledges again after the fault took it away for longer than any
    /// pause, and tells how long that was.
    pub fn moved(&self) -> anyhow::Result<f64> {
        let gap_s = wait_for("the page on the other server", SERVING_LIMIT, || {
            let gap_s = self.gap_s();
            Ok((gap_s >= STAYED_S).then_some(gap_s))
        })?;
        self.site.timeline.note(VM, format!("moved; out for {gap_s:.1} s"));
        self.serves()?;
        Ok(gap_s)
    }

    /// The VM serves, and was never out for as long as a takeover takes.
    pub fn stayed(&self) -> anyhow::Result<()> {
        self.serves()?;
        let gap_s = self.gap_s();
        self.site.timeline.note(VM, format!("stayed; paused for {gap_s:.1} s"));
        ensure!(gap_s < STAYED_S, "the VM was out for {gap_s:.1} s");
        Ok(())
    }

    /// The longest time without an acknowledgement since the fault.
    pub fn gap_s(&self) -> f64 {
        self.writer.longest_gap_s(self.fault_s - NOTED_LATE_S)
    }

    /// Whether a write was acknowledged after this moment.
    pub fn acked_after(&self, at_s: f64) -> bool {
        self.first_ack_after(at_s).is_some()
    }

    /// When the first write after this moment was acknowledged.
    pub fn first_ack_after(&self, at_s: f64) -> Option<f64> {
        self.writer.first_ack_after(at_s)
    }

    /// For this long nothing is acknowledged by anybody.
    pub fn nobody_serves(&self, span: Duration) -> anyhow::Result<()> {
        let before = self.writer.acked();
        std::thread::sleep(span);
        let after = self.writer.acked();
        ensure!(after == before, "{} writes were acknowledged", after - before);
        Ok(())
    }

    /// Cuts every way between the two servers, or mends it.
    pub fn part(&self, cut: bool) {
        let [a, b] = ["a", "b"].map(lan_mac);
        self.site.lan.block(a, b, cut);
        self.site.lan.block(b, a, cut);
        if cut { self.site.cable.cut_both("a") } else { self.site.cable.heal_both("a") }
    }

    /// Cuts a server off from its peer and from HQ, or mends it.
    pub fn cut_off(&self, name: &str, cut: bool) {
        self.part(cut);
        for (from, to) in
            [(lan_mac(name), crate::gateway::MAC), (crate::gateway::MAC, lan_mac(name))]
        {
            self.site.lan.block(from, to, cut);
        }
    }

    /// Starts to ask the VM for a sign of life many times a second.
    pub fn probe(&self) -> anyhow::Result<Prober> {
        let guest = VM_ADDRESS.parse()?;
        Ok(Prober::start(self.site.run.sockets(), guest, &self.site.timeline)?)
    }

    /// Has a server run a command.
    pub fn exec(&mut self, name: &str, command: &str) -> anyhow::Result<String> {
        self.site.server(name).exec(command)?.ok()
    }

    pub fn power_on(&mut self, name: &str) -> anyhow::Result<()> {
        let server = self.site.server(name);
        server.power_on()?;
        server.wait_booted(BOOT_LIMIT).map(drop)
    }

    /// Neither server was reset or lost power since the round began.
    pub fn nobody_rebooted(&mut self) -> anyhow::Result<()> {
        for (name, before) in ["a", "b"].into_iter().zip(self.boots.clone()) {
            let now = boot_id(self.site, name)?;
            ensure!(now == before, "server {name} was rebooted");
        }
        Ok(())
    }

    /// This server is booted anew since the round began.
    pub fn rebooted(&mut self, name: &str) -> anyhow::Result<()> {
        let before = self.boots[usize::from(name == "b")].clone();
        wait_for("the server to boot again", BOOT_LIMIT, || {
            Ok((boot_id(self.site, name)? != before).then_some(()))
        })
    }

    /// Nobody went on alone since the round began.
    pub fn nobody_alone(&self) -> anyhow::Result<()> {
        let now_ms = last_alone_ms(self.site)?;
        // Old events leave the list: only a later one counts.
        let newer = (0..2).any(|at| now_ms[at] > self.alone_ms[at]);
        ensure!(!newer, "a server went on alone");
        Ok(())
    }

    /// Stops the writer and compares the page with what it has promised.
    pub fn finish(self) -> anyhow::Result<(Verdict, &'a mut Site)> {
        Ok((self.writer.finish()?, self.site))
    }

    /// What must hold after every fault.
    pub fn end(self) -> anyhow::Result<()> {
        let healed_s = self.site.timeline.now_s();
        self.site.wait_paired(PAIR_LIMIT)?;
        let seconds = self.site.timeline.now_s() - healed_s;
        self.site.timeline.note("pair", format!("healthy {seconds:.1} s after the fault's end"));
        self.serves()?;
        check_verdict(self.writer.finish()?)?;
        compare_copies(self.site)
    }
}

/// When each server last went on alone, by its own clock; 0 if its events do not tell.
fn last_alone_ms(site: &Site) -> anyhow::Result<[u64; 2]> {
    let last = |server: &crate::server::Server| -> anyhow::Result<u64> {
        let events = server.status()?.events;
        let alone = events.iter().filter(|e| matches!(e.code.as_str(), "grant" | "alone"));
        Ok(alone.map(|event| event.at_ms).max().unwrap_or(0))
    };
    Ok([last(&site.a)?, last(&site.b)?])
}

fn boot_id(site: &mut Site, name: &str) -> anyhow::Result<String> {
    let text = site.server(name).exec("cat /proc/sys/kernel/random/boot_id")?.ok()?;
    Ok(text.trim().to_owned())
}

/// Has DRBD read every block on both servers and compare: no volume may differ.
pub fn compare_copies(site: &mut Site) -> anyhow::Result<()> {
    let start_s = site.timeline.now_s();
    let host = site.host_of_vm()?;
    let server = site.server(host);
    let text = server.exec("cat /proc/drbd")?.ok()?;
    let minors: Vec<String> = volumes(&text).map(|(minor, _)| minor.to_owned()).collect();
    ensure!(!minors.is_empty(), "no volumes in {text}");
    for minor in &minors {
        server.exec(&format!("/usr/lib/drbd/drbdsetup-84 verify {minor}"))?.ok()?;
    }
    let text =
        wait_every("both copies to be compared", COMPARE_LIMIT, Duration::from_secs(1), || {
            let text = server.exec("cat /proc/drbd")?.ok()?;
            Ok((!text.contains("cs:Verify")).then_some(text))
        })?;
    for (minor, words) in volumes(&text) {
        let differ = words.split_once("oos:").context("No oos: in /proc/drbd")?.1;
        if differ.split_whitespace().next() != Some("0") {
            bail!("the copies of volume {minor} differ: {words}");
        }
    }
    let seconds = site.timeline.now_s() - start_s;
    let text = format!("{} volumes are equal, compared in {seconds:.1} s", minors.len());
    site.timeline.note("pair", text);
    Ok(())
}

/// The volumes of `/proc/drbd`: minor, and everything said of it.
pub fn volumes(text: &str) -> impl Iterator<Item = (&str, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(": cs:")).collect();
    starts.into_iter().map(move |at| {
        let minor = lines[at].split(':').next().unwrap_or_default().trim();
        (minor, lines[at..lines.len().min(at + 2)].join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::volumes;

    #[test]
    fn each_volume_is_found_with_its_counters() {
        let text = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 1\n \
             0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n    \
             ns:1 nr:0 oos:0\n\n 12: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n    \
             ns:1 nr:0 oos:8\n";
        let found: Vec<_> = volumes(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].0, found[1].0), ("0", "12"));
        assert!(found[0].1.contains("oos:0") && found[1].1.contains("oos:8"));
    }
}
