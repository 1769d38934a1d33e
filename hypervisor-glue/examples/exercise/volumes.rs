// SPDX-License-Identifier: Apache-2.0
//! Pool, template, snapshot and data volume.

use crate::step;
use anyhow::{Context as _, ensure};
use hypervisor_glue::HostRunner;
use hypervisor_glue::volumes::{
    DiskVerdict, DiskVolume, LvmVolumes, RemovalOrder, VolumeId, Volumes,
};
use provisioning_protocol::ids::{DiskName, TemplateName, VmName};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Size of the template: no whole number of LVM's extents.
pub const TEMPLATE_BYTES: u64 = (5 << 20) + 4096;
/// Size of the data disk.
const DATA_BYTES: u64 = 64 << 20;

/// Every 4 KiB block differs, cheaply even where everything is emulated.
fn pattern() -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in 0..TEMPLATE_BYTES / 4096 {
        bytes.extend_from_slice(&block.to_le_bytes().repeat(512));
    }
    bytes
}

fn read(path: &Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}

/// Gives the VM's system disk, for other exercises.
pub async fn run() -> anyhow::Result<DiskVolume> {
    let volumes = LvmVolumes::new(Arc::new(HostRunner));
    let (vm, system, data) =
        (VmName::new("parts-counter")?, DiskName::new("system")?, DiskName::new("data")?);
    let template =
        TemplateRef { name: TemplateName::new("parts-counter")?, version: TemplateVersion(1) };
    pool(&volumes).await?;
    let made = step("make template", volumes.create_template(&template, TEMPLATE_BYTES)).await?;
    step("write template", async {
        let file = OpenOptions::new().write(true).open(&made.path)?;
        file.write_all_at(&pattern(), 0)?;
        file.sync_all()
    })
    .await?;
    step("begin it again", volumes.create_template(&template, TEMPLATE_BYTES)).await?;
    ensure!(
        volumes.snapshot_template(&template, &vm, &system).await.is_err(),
        "an unsealed template was used"
    );
    step("seal", volumes.seal_template(&template)).await?;
    step("seal again", volumes.seal_template(&template)).await?;
    let refused = volumes.create_template(&template, TEMPLATE_BYTES).await;
    ensure!(refused.is_err(), "a sealed template was opened for writing");
    ensure!(
        OpenOptions::new().write(true).open(&made.path).is_err()
            || OpenOptions::new().write(true).open(&made.path)?.write_at(b"x", 0).is_err(),
        "a sealed template can be written"
    );
    let disk = step("snapshot", volumes.snapshot_template(&template, &vm, &system)).await?;
    let again = step("snapshot again", volumes.snapshot_template(&template, &vm, &system)).await?;
    ensure!(disk == again, "{disk:?} became {again:?}");
    ensure!(disk.guest_bytes == TEMPLATE_BYTES, "{disk:?}");
    ensure!(read(&disk.path, TEMPLATE_BYTES)? == pattern(), "the snapshot differs");
    OpenOptions::new().write(true).open(&disk.path)?.sync_all().context("Opening it to write")?;
    let empty = step("data disk", volumes.create_data(&vm, &data, DATA_BYTES)).await?;
    ensure!(volumes.disks().await?.len() == 2, "{:?}", volumes.disks().await?);
    remove_one(&volumes).await?;
    println!("     {:?}", volumes.usage().await?);
    ensure!(empty.guest_bytes == DATA_BYTES, "{empty:?}");
    Ok(disk)
}

async fn pool(volumes: &LvmVolumes) -> anyhow::Result<()> {
    let found = step("survey", volumes.survey()).await?;
    for disk in &found {
        println!("     {}", disk.line());
    }
    let blank: Vec<PathBuf> = found
        .iter()
        .filter(|disk| disk.verdict == DiskVerdict::Blank)
        .map(|disk| disk.path.clone())
        .collect();
    if step("open the pool", volumes.open_pool()).await?.is_some() {
        return Ok(());
    }
    for disk in found.iter().filter(|disk| disk.verdict != DiskVerdict::Blank) {
        let taken = volumes.create_pool(std::slice::from_ref(&disk.path)).await;
        ensure!(taken.is_err(), "{} was taken", disk.line());
    }
    step("make the pool", volumes.create_pool(&blank)).await?;
    ensure!(volumes.create_pool(&blank).await.is_err(), "the pool was made twice");
    let now = volumes.survey().await?;
    let ours = now.iter().filter(|disk| disk.verdict == DiskVerdict::Ours).count();
    ensure!(ours == blank.len(), "{now:?}");
    ensure!(volumes.open_pool().await?.is_some(), "the pool is gone");
    Ok(())
}

async fn remove_one(volumes: &LvmVolumes) -> anyhow::Result<()> {
    let (vm, disk) = (VmName::new("other")?, DiskName::new("data")?);
    volumes.create_data(&vm, &disk, 4096).await?;
    let order = || RemovalOrder::new(VolumeId::Disk(vm.clone(), disk.clone()), "exercise");
    step("remove a volume", volumes.remove(order())).await?;
    ensure!(volumes.remove(order()).await.is_err(), "it was removed twice");
    Ok(())
}
