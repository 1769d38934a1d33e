// SPDX-License-Identifier: Apache-2.0
//! Scenarios in which nothing loses power: a path is cut, an agent hangs.

use crate::failover::{check_verdict, wait_acks};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{Site, VM, is_paired};
use crate::writer::Writer;
use anyhow::ensure;
use provisioning_protocol::peer::Path;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const PAIR_LIMIT: Duration = Duration::from_secs(240);
/// From a fault to the page on the other server, as for a failover.
const SERVING_LIMIT: Duration = Duration::from_secs(180);
/// A gap in the acknowledgements that only a takeover explains.
const OUTAGE_S: f64 = 15.0;

/// More faults, each minutes long: `cargo xtask lab` runs them after those of each test run.
pub const MATRIX: &[Scenario] = &[
    Scenario {
        name: "cable-cut",
        about: "the direct cable is pulled: replication goes over the LAN, nobody goes on alone",
        run: cable_cut,
    },
    Scenario {
        name: "agent-hangs",
        about: "the agent hangs for good: the watchdog resets its server, the VM moves",
        run: agent_hangs,
    },
];

/// The direct cable is pulled and plugged in again: replication goes over the LAN and comes back,
/// and nobody goes on alone.
fn cable_cut(site: &mut Site) -> anyhow::Result<()> {
    let writer = Writer::start(site.page_port, &site.timeline);
    wait_acks(&writer, 20, MINUTE)?;
    let epochs = alone_counts(site)?;
    site.cable.cut_both("a");
    let cut_s = site.timeline.note("cable", "pulled");
    wait_path(site, Path::Lan, MINUTE)?;
    site.timeline.note("pair", "in sync over the LAN");
    wait_acks(&writer, writer.acked() + 20, MINUTE)?;
    site.cable.heal_both("a");
    site.timeline.note("cable", "plugged in");
    wait_path(site, Path::Cable, PAIR_LIMIT)?;
    site.timeline.note("pair", "in sync over the cable");
    wait_acks(&writer, writer.acked() + 20, MINUTE)?;
    let gap_s = writer.longest_gap_s(cut_s - 1.0);
    site.timeline.note(VM, format!("longest time without an acknowledgement {gap_s:.1} s"));
    ensure!(alone_counts(site)? == epochs, "a server went on alone for a pulled cable");
    check_verdict(writer.finish()?)
}

/// How often each server went on alone, as far as its events go back.
fn alone_counts(site: &Site) -> anyhow::Result<[usize; 2]> {
    let count = |server: &crate::server::Server| -> anyhow::Result<usize> {
        let events = server.status()?.events;
        Ok(events.iter().filter(|event| matches!(event.code.as_str(), "grant" | "alone")).count())
    };
    Ok([count(&site.a)?, count(&site.b)?])
}

fn wait_path(site: &Site, path: Path, limit: Duration) -> anyhow::Result<()> {
    for server in [&site.a, &site.b] {
        server.wait_status(&format!("a pair over {path:?}"), limit, |status| {
            (is_paired(status) && status.server.pair.replication == Some(path)).then_some(())
        })?;
    }
    Ok(())
}

/// The agent of the VM's server is stopped and never goes on: its watchdog resets the server, and
/// the VM starts on the other one.
fn agent_hangs(site: &mut Site) -> anyhow::Result<()> {
    let host = site.host_of_vm()?;
    let boot = boot_id(site, host)?;
    let writer = Writer::start(site.page_port, &site.timeline);
    wait_acks(&writer, 20, MINUTE)?;
    site.server(host).exec("kill -STOP $(systemctl show -P MainPID forecourt-agent)")?.ok()?;
    let stopped_s = site.timeline.note(host, "its agent stopped");
    let gap_s = crate::wait::wait_for("the page on the other server", SERVING_LIMIT, || {
        let gap_s = writer.longest_gap_s(stopped_s);
        Ok((gap_s > OUTAGE_S).then_some(gap_s))
    })?;
    let serving_s = site.timeline.now_s();
    site.timeline.note(VM, format!("out for {gap_s:.1} s"));
    site.timeline.note(
        host,
        format!("reset {:.1} s after its agent stopped", serving_s - gap_s - stopped_s),
    );
    crate::wait::wait_for("the server to boot again", BOOT_LIMIT, || {
        Ok((boot_id(site, host)? != boot).then_some(()))
    })?;
    site.wait_paired(PAIR_LIMIT)?;
    ensure!(site.host_of_vm()? != host, "the VM runs where the agent hung");
    wait_acks(&writer, writer.acked() + 20, MINUTE)?;
    check_verdict(writer.finish()?)
}

fn boot_id(site: &mut Site, name: &str) -> anyhow::Result<String> {
    let text = site.server(name).exec("cat /proc/sys/kernel/random/boot_id")?.ok()?;
    Ok(text.trim().to_owned())
}
