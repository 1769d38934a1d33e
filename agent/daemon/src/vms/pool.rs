// SPDX-License-Identifier: Apache-2.0
//! The volume pool at start: take what is blank, leave and name what is not.

use crate::hq::client::error_chain;
use crate::status::{Concern, Hub};
use hypervisor_glue::GlueError;
use hypervisor_glue::volumes::{DiskReport, DiskVerdict, Volumes};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const RETRY: Duration = Duration::from_secs(10);

/// Waits until there is a pool.
pub async fn ensure(volumes: &Arc<dyn Volumes>, hub: &Hub) {
    loop {
        match once(volumes, hub).await {
            Ok(true) => {
                hub.problem(Concern::Disks, "pool", None);
                return;
            }
            Ok(false) => hub.problem(
                Concern::Disks,
                "pool",
                Some("No blank disk for VMs found: add one. It will be taken by itself".into()),
            ),
            Err(err) => {
                let words = format!("The disks cannot be prepared: {}", error_chain(&err));
                tracing::error!(error = error_chain(&err), "no volume pool");
                hub.problem(Concern::Disks, "pool", Some(words));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Takes what is blank; whether there is a pool.
pub(super) async fn once(volumes: &Arc<dyn Volumes>, hub: &Hub) -> Result<bool, GlueError> {
    let open = volumes.open_pool().await?;
    let reports = volumes.survey().await?;
    let blank: Vec<PathBuf> = reports
        .iter()
        .filter(|report| report.verdict == DiskVerdict::Blank)
        .map(|report| report.path.clone())
        .collect();
    show(hub, &reports);
    let half_made = reports.iter().any(|report| report.verdict == DiskVerdict::Ours);
    match (open.is_some(), blank.is_empty()) {
        (true, true) => return Ok(true),
        (false, true) if half_made => drop(volumes.create_pool(&[]).await?),
        (false, true) => return Ok(false),
        (true, false) => drop(volumes.extend_pool(&blank).await?),
        (false, false) => drop(volumes.create_pool(&blank).await?),
    }
    if !blank.is_empty() {
        let named: Vec<String> = blank.iter().map(|path| path.display().to_string()).collect();
        hub.event("disk_taken", format!("blank disk taken for VM volumes: {}", named.join(", ")));
    }
    show(hub, &volumes.survey().await?);
    Ok(true)
}

fn show(hub: &Hub, reports: &[DiskReport]) {
    let refused: Vec<String> = reports.iter().filter_map(complaint).collect();
    if hub.problems(Concern::Disks, "left", refused.clone()) {
        refused.into_iter().for_each(|words| hub.event("disk_refused", words));
    }
    hub.update(|state| state.disks = reports.iter().map(DiskReport::line).collect());
}

/// A disk someone may have meant for VMs: not the system's own, not a stick.
fn complaint(report: &DiskReport) -> Option<String> {
    let DiskVerdict::LeftAlone(reason) = &report.verdict else { return None };
    let expected = ["in use", "USB", "removable", "read-only", "smaller"];
    if expected.iter().any(|word| reason.contains(word)) {
        return None;
    }
    let reason = reason.strip_prefix("left alone: ").unwrap_or(reason);
    Some(format!(
        "Disk {} {} is not blank and was left alone ({reason}). If nothing on it is needed, wipe \
         it elsewhere or put in a blank one",
        report.path.display(),
        report.serial
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::causes::Causes;
    use crate::status::hub::Fixed;
    use hypervisor_glue::volumes::FakeVolumes;

    #[tokio::test]
    async fn a_pool_that_was_only_half_made_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeVolumes::new(dir.path());
        let mut reports = fake.survey().await.unwrap();
        reports[0].verdict = DiskVerdict::Ours;
        fake.set_survey(reports);
        let volumes: Arc<dyn Volumes> = Arc::new(fake.clone());
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        assert!(once(&volumes, &Hub::new(Fixed::default(), causes)).await.unwrap());
        assert!(fake.open_pool().await.unwrap().is_some());
    }

    #[test]
    fn a_disk_with_data_is_named_and_the_system_disk_is_not() {
        let report = |path: &str, reason: &str| DiskReport {
            path: path.into(),
            model: String::new(),
            serial: "S1".into(),
            size_bytes: 1 << 40,
            verdict: DiskVerdict::LeftAlone(reason.into()),
        };
        let foreign = complaint(&report("/dev/vdb", "left alone: holds ntfs")).unwrap();
        assert!(foreign.contains("/dev/vdb") && foreign.contains("ntfs"), "{foreign}");
        assert!(
            complaint(&report("/dev/vda", "left alone: in use by this server's system")).is_none()
        );
        assert!(complaint(&report("/dev/sda", "left alone: on USB")).is_none());
    }
}
