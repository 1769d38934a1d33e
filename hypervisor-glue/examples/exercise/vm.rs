// SPDX-License-Identifier: Apache-2.0
//! A VM under systemd: probe, start, adopt, pause, cut off, stop.

use crate::{step, until};
use anyhow::ensure;
use hypervisor_glue::HostRunner;
use hypervisor_glue::command::{Command, CommandRunner as _};
use hypervisor_glue::vms::{Accel, Seed, StopOutcome, SystemdVms, VmDisk, VmLaunch, VmState, Vms};
use provisioning_protocol::ids::{SiteName, VmName};
use provisioning_protocol::template::{CpuModel, GuestFirmware};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn launch(system: &str, data: &str, accel: Accel) -> anyhow::Result<VmLaunch> {
    let variables = BTreeMap::from([("ADDRESS".to_owned(), "10.9.9.2/24".to_owned())]);
    Ok(VmLaunch {
        name: VmName::new("parts-counter")?,
        site: SiteName::new("exercise")?,
        index: 7,
        firmware: GuestFirmware::Bios,
        cpu: CpuModel::Portable,
        cpus: 1,
        memory_mib: 160,
        disks: vec![
            VmDisk { path: system.into(), serial: "system".to_owned() },
            VmDisk { path: data.into(), serial: "data".to_owned() },
        ],
        nics: 1,
        seed: Seed {
            instance_id: "exercise-1".to_owned(),
            hostname: "parts-counter".to_owned(),
            variables,
            network_config: None,
        },
        accel,
    })
}

/// Whether the guest's page answers on the bridge.
async fn healthy() -> anyhow::Result<bool> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect("10.9.9.2:80").await?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.contains(" 200 "))
    };
    let limit = Duration::from_secs(2);
    Ok(matches!(tokio::time::timeout(limit, ask).await, Ok(Ok(true))))
}

async fn ip(words: &str) -> anyhow::Result<String> {
    Ok(HostRunner.check(Command::new("ip", words.split(' '))).await?)
}

/// `system` and `data` are block devices.
pub async fn run(system: &str, data: &str) -> anyhow::Result<()> {
    let vms = step("reach systemd", SystemdVms::connect()).await?;
    let accel = step("probe KVM", vms.probe_accel()).await?;
    println!("     {accel:?}");
    let launch = launch(system, data, accel)?;
    let name = launch.name.clone();
    step("prepare", vms.prepare(&launch)).await?;
    ensure!(vms.state(&name).await? == VmState::Prepared, "{:?}", vms.state(&name).await?);
    step("discard", vms.discard(&name)).await?;
    ensure!(vms.state(&name).await? == VmState::Absent, "{:?}", vms.state(&name).await?);
    step("prepare again", vms.prepare(&launch)).await?;
    let started = step("start", vms.start(&launch, None)).await?;
    step("discard nothing", vms.discard(&name)).await?;
    ensure!(vms.start(&launch, None).await.is_err(), "it was started twice");
    let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid))?;
    for key in ["Uid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"] {
        println!("     {}", status.lines().find(|line| line.starts_with(key)).unwrap_or(key));
    }
    let later = step("reach systemd as another agent", SystemdVms::connect()).await?;
    ensure!(later.running().await? == vec![started], "{:?}", later.running().await?);
    ensure!(later.state(&name).await? == VmState::Running, "{:?}", later.state(&name).await?);
    step("pause", later.pause(&name)).await?;
    ensure!(matches!(later.state(&name).await?, VmState::Stopped(_)), "it runs");
    step("resume", later.resume(&name)).await?;
    ip("addr replace 10.9.9.1/24 dev br-lan").await?;
    let served = until("the guest serves its page", 180, healthy).await;
    println!("{}", later.console_tail(&name).await?);
    served?;
    step("cut off", later.set_link(&name, false)).await?;
    ensure!(!healthy().await?, "it answers without a link");
    step("let back", later.set_link(&name, true)).await?;
    until("it answers again", 30, healthy).await?;
    let ended = step("stop", later.stop(&name, Duration::from_secs(60))).await?;
    ensure!(ended == StopOutcome::Clean, "{ended:?}");
    ensure!(later.state(&name).await? == VmState::Absent, "it lives");
    step("start again", later.start(&launch, None)).await?;
    step("kill", later.kill(&name)).await?;
    ensure!(later.stop(&name, Duration::from_secs(1)).await? == StopOutcome::WasAbsent, "lives");
    until("no VM is left", 5, || async { Ok(later.running().await?.is_empty()) }).await
}
