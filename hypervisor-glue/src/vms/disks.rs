// SPDX-License-Identifier: Apache-2.0
//! A VM's disks in QEMU: placeholders while it waits for its start, then the volumes.
//!
//! A volume cannot be opened before it is primary here, and loading QEMU takes longer than
//! promoting. So QEMU is loaded on empty disks of the same size, and `blockdev-reopen` puts the
//! volume under each before the first vCPU runs. The guest never sees a placeholder.

use super::VmDisk;
use super::qmp::Qmp;
use crate::error::{GlueError, Result};
use serde_json::json;
use std::path::Path;

const SECTOR_BYTES: u64 = 512;

/// The node the guest's disk stands on.
pub(super) fn node(index: usize) -> String {
    format!("disk{index}")
}

fn empty_node(index: usize) -> String {
    format!("disk{index}-empty")
}

/// `-blockdev` options of a disk without its volume, `size` in bytes.
pub(super) fn placeholder(index: usize, size: u64) -> [String; 2] {
    let (node, empty) = (node(index), empty_node(index));
    [
        format!("driver=null-co,node-name={empty},size={size},read-zeroes=on"),
        format!("driver=raw,node-name={node},file={empty},discard=unmap"),
    ]
}

/// Gives a stopped QEMU the volumes. A guest may stand still meanwhile: nothing is waited for twice, and the
/// placeholders stay, unused.
pub(super) async fn hand_over(qmp: &mut Qmp, disks: &[VmDisk]) -> Result<()> {
    let mut commands = Vec::new();
    let mut puts = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let volume = format!("volume{index}");
        // Threads and not native AIO: while replication is frozen a submission blocks, and must
        // not block QEMU's main loop.
        let add = json!({
            "driver": "host_device", "node-name": volume, "filename": disk.path,
            "cache": { "direct": true }, "aio": "threads", "discard": "unmap",
        });
        commands.push(("blockdev-add", add));
        puts.push(json!({
            "driver": "raw", "node-name": node(index), "file": volume, "discard": "unmap",
        }));
    }
    commands.push(("blockdev-reopen", json!({ "options": puts })));
    qmp.execute_all(commands).await
}

/// Bytes of each disk's block device.
pub(super) fn sizes(disks: &[VmDisk]) -> Result<Vec<u64>> {
    disks.iter().map(|disk| size(&disk.path)).collect()
}

fn size(device: &Path) -> Result<u64> {
    let unreadable = |err| GlueError::file("find", device, err);
    let real = device.canonicalize().map_err(unreadable)?;
    let file = Path::new("/sys/class/block").join(real.file_name().unwrap_or_default());
    let file = file.join("size");
    let text = std::fs::read_to_string(&file).map_err(|err| GlueError::file("read", &file, err))?;
    let sectors: u64 = text.trim().parse().unwrap_or(0);
    if sectors == 0 {
        let what = format!("{} has no size: its volume is not attached", device.display());
        return Err(GlueError::Missing { what });
    }
    Ok(sectors.saturating_mul(SECTOR_BYTES))
}
