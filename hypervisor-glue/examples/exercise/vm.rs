// SPDX-License-Identifier: Apache-2.0
//! A VM under systemd: probe, start, adopt, pause, cut off, stop.

use crate::{step, until};
use anyhow::ensure;
use hypervisor_glue::vms::{Seed, StopOutcome, SystemdVms, VmDisk, VmLaunch, VmState, Vms};
use provisioning_protocol::ids::{SiteName, VmName};
use provisioning_protocol::template::GuestFirmware;
use std::collections::BTreeMap;
use std::time::Duration;

pub async fn run(image: &str) -> anyhow::Result<()> {
    let vms = step("reach systemd", SystemdVms::connect()).await?;
    let accel = step("probe KVM", vms.probe_accel()).await?;
    println!("     {accel:?}");
    let name = VmName::new("parts-counter")?;
    let launch = VmLaunch {
        name: name.clone(),
        site: SiteName::new("exercise")?,
        index: 7,
        firmware: GuestFirmware::Bios,
        cpus: 1,
        memory_mib: 160,
        disks: vec![VmDisk { path: image.into(), serial: "system".to_owned() }],
        nics: 1,
        seed: Seed {
            instance_id: "exercise-1".to_owned(),
            hostname: "parts-counter".to_owned(),
            variables: BTreeMap::from([("ADDRESS".to_owned(), "10.9.9.2/24".to_owned())]),
            network_config: None,
        },
        accel,
    };
    let started = step("start", vms.start(&launch)).await?;
    println!("     {started:?}");
    ensure!(vms.start(&launch).await.is_err(), "it was started twice");
    println!(
        "{}",
        std::fs::read_to_string(format!("/proc/{}/status", started.pid))?
            .lines()
            .filter(|l| ["Uid:", "Groups:", "CapEff:", "NoNewPrivs:", "Seccomp:"]
                .iter()
                .any(|k| l.starts_with(k)))
            .collect::<Vec<_>>()
            .join("\n")
    );
    let later = step("reach systemd as another agent", SystemdVms::connect()).await?;
    ensure!(later.running().await? == vec![started], "{:?}", later.running().await?);
    ensure!(later.state(&name).await? == VmState::Running, "{:?}", later.state(&name).await?);
    step("pause", later.pause(&name)).await?;
    ensure!(matches!(later.state(&name).await?, VmState::Stopped(_)), "it runs");
    step("resume", later.resume(&name)).await?;
    step("cut off", later.set_link(&name, false)).await?;
    step("let back", later.set_link(&name, true)).await?;
    let mut seen = String::new();
    for _ in 0..120 {
        seen.push_str(&later.console_tail(&name).await?);
        if seen.contains("listening") || seen.contains("serving") || seen.contains("MARKER") {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(
        "{}",
        seen.chars().rev().take(1500).collect::<String>().chars().rev().collect::<String>()
    );
    let ended = step("stop", later.stop(&name, Duration::from_secs(20))).await?;
    println!("     {ended:?}");
    ensure!(later.state(&name).await? == VmState::Absent, "it lives");
    step("start again", later.start(&launch)).await?;
    step("kill", later.kill(&name)).await?;
    ensure!(later.stop(&name, Duration::from_secs(1)).await? == StopOutcome::WasAbsent, "lives");
    until("no VM is left", 5, || async { Ok(later.running().await?.is_empty()) }).await
}
