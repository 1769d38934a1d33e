// SPDX-License-Identifier: Apache-2.0
//! The scenarios: what is promised, seen on real machines. Each finds and leaves a healthy pair.

use crate::failover::{self, LOST_WORDS, check_verdict, wait_acks};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::{Site, VM, is_paired};
use crate::writer::Writer;
use anyhow::{Context, ensure};
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;
use std::time::Duration;

/// The scenarios of each test run, in the order they run.
pub const GATE: &[Scenario] = &[
    Scenario {
        name: "wan-once",
        about: "the template crossed the WAN once; the second server copied it from the first",
        run: wan_once,
    },
    Scenario {
        name: "used-disk",
        about: "a disk that is not blank is left alone and reported",
        run: used_disk,
    },
    Scenario {
        name: "console",
        about: "screen and serial line show the pair, and no key ends the console",
        run: crate::console::console,
    },
    Scenario {
        name: "closed",
        about: "no login, no package manager, no port open on the LAN",
        run: crate::closed::closed,
    },
    Scenario {
        name: "agent-kill",
        about: "the agent is killed while a VM runs: the VM goes on, the agent picks it up",
        run: agent_kill,
    },
    Scenario {
        name: "power-loss-primary",
        about: "the VM's server loses power: the VM comes back with every acknowledged write",
        run: power_loss_primary,
    },
    Scenario {
        name: "hq-down-boot",
        about: "HQ is down: one server is lost, the other goes on, the lost one boots and joins it",
        run: hq_down_boot,
    },
    Scenario {
        name: "declared-off",
        about: "no HQ, and the wrong server dies: a person's word at the console brings the VM back",
        run: declared_off,
    },
    Scenario {
        name: "power-both",
        about: "both servers lose power together and return together",
        run: power_both,
    },
];

const PAIR_LIMIT: Duration = Duration::from_secs(240);

/// Boots the pair, which every other scenario needs.
pub fn bring_up(site: &mut Site) -> anyhow::Result<()> {
    site.bring_up()
}

fn wan_once(site: &mut Site) -> anyhow::Result<()> {
    let [a, b] = ["a", "b"].map(|name| site.wan_bytes(name).received);
    site.timeline.note("wan", format!("received: A {a} bytes, B {b} bytes"));
    let templates = site.hq.cli_json(&["template", "list"])?;
    let stored = templates[0]["stored_bytes"].as_u64().context("No stored_bytes")?;
    let [most, least] = [a.max(b), a.min(b)];
    ensure!(most >= stored, "{most} bytes crossed the WAN, the template has {stored}");
    ensure!(least < stored / 20, "the second server drew {least} of {stored} bytes over the WAN");
    Ok(())
}

fn used_disk(site: &mut Site) -> anyhow::Result<()> {
    let status = site.a.status()?;
    let line = status.disks.iter().find(|line| line.contains("vdc"));
    let line = line.with_context(|| format!("Nothing about vdc in {:?}", status.disks))?;
    site.timeline.note("a", line.clone());
    let text = std::fs::read(site.used_disk())?;
    let found = text.windows(18).any(|window| window == b"Nobody's to erase.");
    ensure!(found, "the used disk was overwritten");
    let volumes = site.a.exec("pvs --noheadings -o pv_name")?.ok()?;
    ensure!(volumes.contains("vdb") && !volumes.contains("vdc"), "LVM took {volumes}");
    Ok(())
}

fn agent_kill(site: &mut Site) -> anyhow::Result<()> {
    let host = site.host_of_vm()?;
    let writer = Writer::start(&site.page, &site.timeline);
    wait_acks(&writer, 20, Duration::from_secs(60))?;
    let unit = format!("systemctl show -P MainPID forecourt-vm-{VM}.service");
    let qemu_before = site.server(host).exec(&unit)?.ok()?;
    let agent = "systemctl show -P MainPID forecourt-agent.service";
    let agent_before = site.server(host).exec(agent)?.ok()?;
    let kill = format!("kill -9 {}", agent_before.trim());
    site.server(host).exec(&kill)?.ok()?;
    let killed_s = site.timeline.note(host, "agent killed");
    crate::wait::wait_for("a new agent", Duration::from_secs(30), || {
        let now = site.server(host).exec(agent)?.ok()?;
        Ok((now.trim() != agent_before.trim() && now.trim() != "0").then_some(()))
    })?;
    site.server(host).wait_status("the VM picked up", Duration::from_secs(60), |status| {
        let picked = |phase| matches!(phase, VmPhase::Running | VmPhase::Healthy);
        let vm = status.server.vms.iter().any(|vm| picked(vm.phase));
        (vm && is_paired(status)).then_some(())
    })?;
    let qemu_after = site.server(host).exec(&unit)?.ok()?;
    ensure!(qemu_before == qemu_after, "the VM was restarted: {qemu_before} then {qemu_after}");
    wait_acks(&writer, writer.acked() + 20, Duration::from_secs(60))?;
    let gap_s = writer.longest_gap_s(killed_s);
    site.timeline.note(VM, format!("longest time without an acknowledgement {gap_s:.1} s"));
    check_verdict(writer.finish()?)
}

fn power_loss_primary(site: &mut Site) -> anyhow::Result<()> {
    let (times, victim) = failover::kill_host(site)?;
    ensure!(times.lost_writes == 0, "{} {LOST_WORDS}", times.lost_writes);
    failover::return_of(site, victim).map(drop)
}

fn hq_down_boot(site: &mut Site) -> anyhow::Result<()> {
    let host = site.host_of_vm()?;
    let standby = other(host);
    let writer = Writer::start(&site.page, &site.timeline);
    wait_acks(&writer, 20, Duration::from_secs(60))?;
    site.hq.kill();
    site.wait_tie_on_site(host)?;
    // Nobody can be asked: the server that holds the tie-break goes on by itself.
    let killed_s = site.server(standby).kill();
    wait_acks(&writer, writer.acked() + 20, Duration::from_secs(60))?;
    let pause_s = writer.longest_gap_s(killed_s - 1.0);
    site.timeline.note(VM, format!("without HQ it paused for {pause_s:.1} s"));
    site.server(standby).power_on()?;
    site.server(standby).wait_booted(BOOT_LIMIT)?;
    site.server(standby).wait_status("HQ missed, in words", BOOT_LIMIT, |status| {
        (!status.hq_error.is_empty()).then_some(())
    })?;
    site.wait_paired(PAIR_LIMIT)?;
    wait_acks(&writer, writer.acked() + 20, Duration::from_secs(60))?;
    site.hq.start()?;
    site.wait_tie_at_hq()?;
    check_verdict(writer.finish()?)
}

/// HQ is out of reach and the server that may go on without it dies: the other one stays frozen
/// until a person at its console says that the dead one is off.
fn declared_off(site: &mut Site) -> anyhow::Result<()> {
    let holder = site.host_of_vm()?;
    let survivor = other(holder);
    let writer = Writer::start(&site.page, &site.timeline);
    wait_acks(&writer, 20, Duration::from_secs(60))?;
    site.cut_wan();
    site.wait_tie_on_site(holder)?;
    site.server(holder).kill();
    site.server(survivor).wait_status("frozen, and why", Duration::from_secs(60), |status| {
        let pair = &status.server.pair;
        let stuck = pair.state == PeerState::Suspect && pair.cause.contains("only the other");
        stuck.then_some(())
    })?;
    crate::console::declare_peer_off(site.server(survivor))?;
    let said_s = site.timeline.note(survivor, "the person has said that the other server is off");
    let serving_s = crate::wait::wait_for("the page again", Duration::from_secs(240), || {
        Ok(writer.first_ack_after(said_s))
    })?;
    site.timeline.note(VM, format!("serves again {:.1} s after the word", serving_s - said_s));
    wait_acks(&writer, writer.acked() + 20, Duration::from_secs(60))?;
    check_verdict(writer.finish()?)?;
    site.heal_wan();
    failover::return_of(site, holder)?;
    site.wait_tie_at_hq()
}

fn other(name: &str) -> &'static str {
    if name == "a" { "b" } else { "a" }
}

fn power_both(site: &mut Site) -> anyhow::Result<()> {
    let writer = Writer::start(&site.page, &site.timeline);
    wait_acks(&writer, 40, Duration::from_secs(60))?;
    site.a.kill();
    site.b.kill();
    let dark_s = site.timeline.now_s();
    site.a.power_on()?;
    site.b.power_on()?;
    site.a.wait_booted(BOOT_LIMIT)?;
    site.b.wait_booted(BOOT_LIMIT)?;
    site.wait_page(Duration::from_secs(300))?;
    site.wait_paired(PAIR_LIMIT)?;
    wait_acks(&writer, writer.acked() + 20, Duration::from_secs(60))?;
    let gap_s = writer.longest_gap_s(dark_s - 5.0);
    site.timeline.note(VM, format!("back after {gap_s:.1} s"));
    check_verdict(writer.finish()?)
}
