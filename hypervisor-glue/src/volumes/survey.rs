// SPDX-License-Identifier: Apache-2.0
//! Which disks may be used: a disk is taken only if nothing at all is found on it.

use super::{DiskReport, DiskVerdict, LVM_PARTLABEL, VG};
use crate::command::{Command, CommandRunner};
use crate::error::{GlueError, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Smallest disk worth taking.
const DISK_BYTES_MIN: u64 = 1 << 30;
/// Kernel names of devices that are no disks of this server.
const VIRTUAL: [&str; 7] = ["drbd", "dm-", "loop", "ram", "zram", "nbd", "sr"];

#[derive(Debug, Deserialize)]
struct LsblkReply {
    blockdevices: Vec<BlockDevice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockDevice {
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    ro: bool,
    rm: bool,
    tran: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    pttype: Option<String>,
    fstype: Option<String>,
    partlabel: Option<String>,
    mountpoints: Vec<Option<String>>,
    children: Vec<BlockDevice>,
}

impl BlockDevice {
    fn mounted(&self) -> bool {
        self.mountpoints.iter().flatten().any(|point| !point.is_empty())
            || self.children.iter().any(Self::mounted)
    }
}

/// Looks at every disk, and at partitions offered by their label.
pub async fn survey(runner: &dyn CommandRunner) -> Result<Vec<DiskReport>> {
    let columns = "NAME,PATH,TYPE,SIZE,RO,RM,TRAN,MODEL,SERIAL,PTTYPE,FSTYPE,PARTLABEL,MOUNTPOINTS";
    let text = runner.check(Command::new("lsblk", ["--json", "-b", "-o", columns])).await?;
    let reply: LsblkReply =
        serde_json::from_str(&text).map_err(|err| GlueError::parse("lsblk's answer", err))?;
    let groups = physical_volumes(runner).await?;
    let mut reports = Vec::new();
    for disk in &reply.blockdevices {
        if disk.kind != "disk" || VIRTUAL.iter().any(|prefix| disk.name.starts_with(prefix)) {
            continue;
        }
        reports.push(report(disk, disk_verdict(runner, disk, &groups).await?, disk));
        for part in offered_partitions(disk) {
            reports.push(report(part, content_verdict(runner, part, &groups).await?, disk));
        }
    }
    Ok(reports)
}

fn offered_partitions(disk: &BlockDevice) -> impl Iterator<Item = &BlockDevice> {
    let fixed = removable_reason(disk).is_none() && !disk.ro;
    disk.children.iter().filter(move |part| {
        fixed && part.kind == "part" && part.partlabel.as_deref() == Some(LVM_PARTLABEL)
    })
}

fn report(device: &BlockDevice, verdict: DiskVerdict, disk: &BlockDevice) -> DiskReport {
    let text = |value: &Option<String>| value.as_deref().unwrap_or("").trim().to_owned();
    DiskReport {
        path: PathBuf::from(&device.path),
        model: text(&disk.model),
        serial: text(&disk.serial),
        size_bytes: device.size,
        verdict,
    }
}

fn removable_reason(disk: &BlockDevice) -> Option<String> {
    if disk.tran.as_deref() == Some("usb") {
        return Some("left alone: on USB".to_owned());
    }
    disk.rm.then(|| "left alone: removable".to_owned())
}

async fn disk_verdict(
    runner: &dyn CommandRunner,
    disk: &BlockDevice,
    groups: &BTreeMap<String, String>,
) -> Result<DiskVerdict> {
    let left = |reason: &str| Ok(DiskVerdict::LeftAlone(reason.to_owned()));
    if let Some(reason) = removable_reason(disk) {
        return left(&reason);
    }
    if disk.mounted() {
        return left("left alone: in use by this server's system");
    }
    if let Some(table) = disk.pttype.as_deref().filter(|table| !table.is_empty()) {
        return left(&format!("left alone: has a partition table ({table})"));
    }
    if disk.children.iter().any(|child| child.kind == "part") {
        return left("left alone: has partitions");
    }
    content_verdict(runner, disk, groups).await
}

/// Judges a device by what is written on it.
async fn content_verdict(
    runner: &dyn CommandRunner,
    device: &BlockDevice,
    groups: &BTreeMap<String, String>,
) -> Result<DiskVerdict> {
    let left = |reason: String| Ok(DiskVerdict::LeftAlone(reason));
    if let Some(group) = groups.get(&device.path) {
        return match group.as_str() {
            VG => Ok(DiskVerdict::Ours),
            "" => left("left alone: an LVM volume of no group".to_owned()),
            other => left(format!("left alone: belongs to LVM group {other}")),
        };
    }
    if let Some(found) = device.fstype.as_deref().filter(|found| !found.is_empty()) {
        return left(format!("left alone: holds {found}"));
    }
    if device.mounted() || !device.children.is_empty() {
        return left("left alone: in use".to_owned());
    }
    if device.ro {
        return left("left alone: read-only".to_owned());
    }
    if device.size < DISK_BYTES_MIN {
        return left("left alone: smaller than 1 GiB".to_owned());
    }
    if let Some(found) = signature(runner, &device.path).await? {
        return left(format!("left alone: holds {found}"));
    }
    Ok(DiskVerdict::Blank)
}

/// Asks blkid and wipefs for any signature; both must find nothing.
async fn signature(runner: &dyn CommandRunner, path: &str) -> Result<Option<String>> {
    let blkid = runner.run(Command::new("blkid", ["-p", "-o", "export", path])).await?;
    match blkid.code {
        Some(0 | 2) => {}
        Some(8) => return Ok(Some("contradictory signatures".to_owned())),
        _ => return Err(crate::command::failed(format!("blkid -p {path}"), &blkid)),
    }
    let line =
        |key: &str| blkid.stdout.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    if let Some(found) = line("TYPE=") {
        return Ok(Some(found));
    }
    if let Some(table) = line("PTTYPE=") {
        return Ok(Some(format!("a partition table ({table})")));
    }
    let wipefs = runner.check(Command::new("wipefs", ["-n", "--json", path])).await?;
    if wipefs.trim().is_empty() {
        return Ok(None);
    }
    let reply: WipefsReply =
        serde_json::from_str(&wipefs).map_err(|err| GlueError::parse("wipefs's answer", err))?;
    Ok(reply.signatures.into_iter().next().map(|found| found.kind))
}

#[derive(Debug, Deserialize)]
struct WipefsReply {
    #[serde(default)]
    signatures: Vec<WipefsSignature>,
}

#[derive(Debug, Deserialize)]
struct WipefsSignature {
    #[serde(rename = "type", default)]
    kind: String,
}

/// Device path to volume group name (empty: a physical volume of no group).
async fn physical_volumes(runner: &dyn CommandRunner) -> Result<BTreeMap<String, String>> {
    let rows = super::lvm::report(runner, "pvs", "pv", "pv_name,vg_name", &[]).await?;
    Ok(rows
        .into_iter()
        .filter_map(|mut row| Some((row.remove("pv_name")?, row.remove("vg_name")?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FakeRunner, Finished};
    use serde_json::{Value, json};

    const SIZE: u64 = 8 << 30;

    fn disk(name: &str, more: Value) -> Value {
        let mut disk = json!({ "name": name, "path": format!("/dev/{name}"), "type": "disk",
            "size": SIZE, "ro": false, "rm": false, "tran": null, "model": null, "serial": null,
            "pttype": null, "fstype": null, "partlabel": null, "mountpoints": [null] });
        if let (Some(disk), Some(more)) = (disk.as_object_mut(), more.as_object()) {
            disk.extend(more.clone());
        }
        disk
    }

    /// A machine with these disks, on which blkid and wipefs find nothing.
    fn machine(disks: &[Value], groups: Value) -> FakeRunner {
        let runner = FakeRunner::new();
        let lsblk = json!({ "blockdevices": disks }).to_string();
        runner.on_prefix("lsblk", Finished::with_stdout(lsblk));
        let pvs = json!({ "report": [{ "pv": groups }] }).to_string();
        runner.on_prefix("pvs", Finished::with_stdout(pvs));
        runner.on_prefix("blkid", Finished::with_code(2, ""));
        runner.on_prefix("wipefs", Finished::with_stdout(""));
        runner
    }

    async fn verdicts(runner: &FakeRunner) -> Vec<DiskVerdict> {
        let reports = survey(runner).await.expect("surveyed");
        reports.into_iter().map(|report| report.verdict).collect()
    }

    fn left(verdict: &DiskVerdict, why: &str) {
        let DiskVerdict::LeftAlone(reason) = verdict else { panic!("{verdict:?} taken") };
        assert!(reason.contains(why), "{reason} instead of {why}");
    }

    #[tokio::test]
    async fn only_a_disk_with_nothing_on_it_is_blank() {
        assert_eq!(
            verdicts(&machine(&[disk("vda", json!({}))], json!([]))).await,
            [DiskVerdict::Blank]
        );
        for (more, why) in [
            (json!({ "pttype": "gpt" }), "partition table"),
            (json!({ "fstype": "ntfs" }), "ntfs"),
            (json!({ "tran": "usb" }), "USB"),
            (json!({ "rm": true }), "removable"),
            (json!({ "ro": true }), "read-only"),
            (json!({ "size": 512 << 20 }), "smaller"),
            (json!({ "mountpoints": ["/var"] }), "system"),
            (json!({ "children": [disk("vda1", json!({ "type": "part" }))] }), "partitions"),
            (json!({ "children": [disk("md0", json!({ "type": "raid1" }))] }), "in use"),
        ] {
            left(&verdicts(&machine(&[disk("vda", more)], json!([]))).await[0], why);
        }
    }

    #[tokio::test]
    async fn either_prober_alone_keeps_a_disk_safe() {
        let one = || machine(&[disk("vda", json!({}))], json!([]));
        let runner = one();
        let found = "DEVNAME=/dev/vda\nVERSION=v08\nTYPE=drbd\n";
        runner.on_prefix("blkid", Finished::with_stdout(found));
        left(&verdicts(&runner).await[0], "drbd");
        let runner = one();
        runner.on_prefix("blkid", Finished::with_code(8, "ambivalent"));
        left(&verdicts(&runner).await[0], "contradictory");
        let runner = one();
        let found = r#"{"signatures":[{"device":"vda","offset":"0x200","type":"PMBR"}]}"#;
        runner.on_prefix("wipefs", Finished::with_stdout(found));
        left(&verdicts(&runner).await[0], "PMBR");
        for broken in ["blkid", "wipefs", "lsblk", "pvs"] {
            let runner = one();
            runner.on_prefix(broken, Finished::with_code(1, "I/O error"));
            assert!(survey(&runner).await.is_err(), "{broken} failed and the disk was judged");
        }
    }

    #[tokio::test]
    async fn foreign_volume_groups_are_left_and_ours_is_known() {
        let groups = json!([
            { "pv_name": "/dev/vda", "vg_name": "forecourt" },
            { "pv_name": "/dev/vdb", "vg_name": "customer" },
            { "pv_name": "/dev/vdc", "vg_name": "" },
        ]);
        let member = || json!({ "fstype": "LVM2_member" });
        let disks = [disk("vda", member()), disk("vdb", member()), disk("vdc", member())];
        let found = verdicts(&machine(&disks, groups)).await;
        assert_eq!(found[0], DiskVerdict::Ours);
        left(&found[1], "customer");
        left(&found[2], "no group");
    }

    #[tokio::test]
    async fn the_os_disk_offers_its_labelled_partition_alone() {
        let part = |name: &str, label: &str| {
            disk(name, json!({ "type": "part", "partlabel": label, "mountpoints": [null] }))
        };
        let children = [part("vda1", "esp"), part("vda2", LVM_PARTLABEL)];
        let os = disk("vda", json!({ "pttype": "gpt", "children": children }));
        let reports =
            survey(&machine(std::slice::from_ref(&os), json!([]))).await.expect("surveyed");
        let paths: Vec<_> =
            reports.iter().map(|report| report.path.display().to_string()).collect();
        assert_eq!(paths, ["/dev/vda", "/dev/vda2"]);
        assert_eq!(reports[1].verdict, DiskVerdict::Blank);
        let mut stick = os;
        stick["tran"] = json!("usb");
        assert_eq!(
            verdicts(&machine(&[stick], json!([]))).await.len(),
            1,
            "a stick offers nothing"
        );
    }

    #[tokio::test]
    async fn replicated_and_virtual_devices_are_no_disks() {
        let disks = [disk("drbd0", json!({})), disk("loop1", json!({})), disk("zram0", json!({}))];
        assert!(verdicts(&machine(&disks, json!([]))).await.is_empty());
    }
}
