// SPDX-License-Identifier: Apache-2.0
//! A copy of a disk in use, the disk put back to it, and its replication begun anew.

use crate::{step, volumes};
use anyhow::{Context as _, ensure};
use hypervisor_glue::HostRunner;
use hypervisor_glue::command::{Command, CommandRunner as _};
use hypervisor_glue::replication::{
    AdoptOrder, DiskState, DrbdReplication, ReplicaSpec, Replication, replication_address,
};
use hypervisor_glue::volumes::{
    Keep, KeepCause, LvmVolumes, RemovalOrder, RollBackOrder, VolumeId, Volumes,
};
use provisioning_protocol::desired::Secret;
use provisioning_protocol::ids::{DiskName, NodeSlot, VmName};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NUMBER: u32 = 5;
const LIMIT: Duration = Duration::from_secs(5);

fn write(path: &Path, value: u8) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[value; 4096], 0)?;
    file.sync_all()
}

fn read(path: &Path) -> std::io::Result<u8> {
    let mut block = [0; 4096];
    OpenOptions::new().read(true).open(path)?.read_exact_at(&mut block, 0)?;
    Ok(block[0])
}

/// Needs DRBD loaded, and nothing connected.
pub async fn run() -> anyhow::Result<()> {
    volumes::run().await?;
    let volumes = LvmVolumes::new(Arc::new(HostRunner));
    let drbd = DrbdReplication::new(Arc::new(HostRunner));
    let (vm, name) = (VmName::new("parts-counter")?, DiskName::new("data")?);
    let find = async || -> anyhow::Result<_> {
        let disks = volumes.disks().await?;
        disks.into_iter().find(|disk| disk.disk == name).context("no data disk")
    };
    let disk = find().await?;
    let spec = ReplicaSpec {
        vm: vm.clone(),
        disk: name.clone(),
        number: NUMBER,
        backing: disk.path.clone(),
        guest_bytes: disk.guest_bytes,
        own: replication_address(NodeSlot::A).into(),
        peer: replication_address(NodeSlot::B).into(),
        secret: Secret("c2VjcmV0IG9mIHRoZSBleGVyY2lzZSwgMzIgYnl0ZXM=".to_owned()),
    };
    let state = async || -> anyhow::Result<DiskState> {
        let all = drbd.status().await?;
        Ok(all.iter().find(|s| s.number == NUMBER).context("no volume")?.disk)
    };
    let down = async || -> anyhow::Result<()> {
        drbd.down(drbd.helpers_gone(&spec.resource(), LIMIT).await?).await.map_err(Into::into)
    };
    write(&disk.path, 1)?;
    step("metadata", drbd.create_metadata(&spec)).await?;
    step("attach", drbd.attach(&spec)).await?;
    let keep = |taken_ms| Keep {
        vm: vm.clone(),
        disk: name.clone(),
        taken_ms,
        holds_ms: 1,
        epoch: 7,
        cause: KeepCause::Resync,
    };
    let order = |taken_ms| RollBackOrder::new(keep(taken_ms), "exercise");
    step("keep a copy of the disk in use", volumes.keep(&keep(1000), false)).await?;
    ensure!(volumes.kept().await?.iter().all(|kept| !kept.whole), "whole before it was proven");
    ensure!(volumes.begin_roll_back(&order(1000)).await.is_err(), "it is not proven");
    step("prove it", volumes.prove_kept(&keep(1000))).await?;
    ensure!(volumes.disks().await?.len() == 2, "the copy passes for a disk");
    ensure!(volumes.keep(&keep(1000), true).await.is_err(), "made twice");
    let path = step("prepare its return", volumes.begin_roll_back(&order(1000))).await?;
    let refused = volumes.finish_roll_back(order(1000)).await;
    ensure!(refused.is_err() && read(&disk.path)? == 1, "a disk in use was exchanged");
    down().await?;
    write(&disk.path, 2)?;
    ensure!(read(&path)? == 1, "the copy changed with its disk");
    let anew = ReplicaSpec { backing: path, ..spec.clone() };
    step("fresh metadata", drbd.start_over(&anew)).await?;
    step("exchange", volumes.finish_roll_back(order(1000))).await?;
    ensure!(read(&find().await?.path)? == 1, "not what the copy holds");
    ensure!(volumes.kept().await?.iter().all(|kept| kept.used), "not marked");
    step("attach what was put back", drbd.attach(&spec)).await?;
    ensure!(state().await? == DiskState::Inconsistent, "it would not be taken whole");
    down().await?;
    step("adopt", drbd.adopt(AdoptOrder::new(spec.clone(), "exercise"))).await?;
    step("attach what was adopted", drbd.attach(&spec)).await?;
    ensure!(state().await? == DiskState::Consistent, "{:?}", state().await?);
    down().await?;
    cut_off(&volumes, &keep(2000)).await?;
    for taken_ms in [1000, 2000] {
        let kept = VolumeId::Kept(keep(taken_ms).name());
        step("drop a copy", volumes.remove(RemovalOrder::new(kept, "exercise"))).await?;
    }
    ensure!(volumes.kept().await?.is_empty(), "{:?}", volumes.kept().await?);
    Ok(())
}

/// An exchange that is cut off between the removal and the renaming is finished by whoever comes next.
async fn cut_off(volumes: &LvmVolumes, keep: &Keep) -> anyhow::Result<()> {
    let disks = volumes.disks().await?;
    let disk = disks.iter().find(|disk| disk.disk == keep.disk).context("no data disk")?;
    write(&disk.path, 3)?;
    volumes.keep(keep, true).await?;
    write(&disk.path, 4)?;
    volumes.begin_roll_back(&RollBackOrder::new(keep.clone(), "exercise")).await?;
    let name = disk.path.display().to_string();
    let words = ["--config", "devices{use_devicesfile=0}", "--yes", &name];
    HostRunner.check(Command::new("lvremove", words)).await?;
    let found = volumes.create_data(&keep.vm, &keep.disk, disk.guest_bytes);
    let found = step("find a disk whose exchange was cut off", found).await?;
    ensure!(read(&found.path)? == 3, "another disk was made");
    Ok(())
}
