// SPDX-License-Identifier: Apache-2.0
//! Replication by the kernel's DRBD 8.4, driven by `drbdsetup-84` and `drbdmeta` alone.

use super::metadata::{Tail, device_bytes, inspect};
use super::{
    AdoptOrder, DiskState, HelpersGone, LinkState, MetadataOutcome, NUMBER_MAX, PORT_BASE,
    ReplicaEvent, ReplicaSpec, ReplicaStatus, Replication, parse,
};
use crate::command::{Command, CommandRunner, Finished, failed};
use crate::error::{GlueError, Result};
use async_trait::async_trait;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

mod anew;

const LIMIT: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_millis(100);
/// udev may have a fresh volume open for a moment.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// drbdsetup's exit code when the kernel refuses a state change for now.
const EXIT_REFUSED: i32 = 11;
const MODULE: &str = "/sys/module/drbd";

/// Chosen by measurement on two paths, see the facts in `docs`: a dead peer is noticed within
/// 2.3 s, and a link that is merely slow is not taken for dead.
const NET_OPTIONS: [&str; 15] = [
    "--protocol=C",
    "--ping-int=1",
    "--ping-timeout=5",
    "--timeout=9",
    "--connect-int=1",
    "--ko-count=7",
    // Blocks whose digests are equal are not copied: no CRC may decide that. A block that ends with its
    // own CRC-32C, as ext4's superblock and extent blocks do, has one CRC-32C whatever it holds.
    "--verify-alg=sha256",
    "--csums-alg=sha256",
    "--use-rle=yes",
    "--max-buffers=8000",
    "--after-sb-0pri=disconnect",
    "--after-sb-1pri=disconnect",
    "--after-sb-2pri=disconnect",
    "--rr-conflict=disconnect",
    "--cram-hmac-alg=sha256",
];
const DISK_OPTIONS: [&str; 8] = [
    "--fencing=resource-and-stonith",
    "--on-io-error=detach",
    // Guests that write push a resync down to this rate and no further. The kernel's own 250 KiB/s
    // would leave a terabyte without redundancy for seven weeks; this is a fifth of the cable, 15 h.
    "--c-min-rate=20M",
    // Four fifths of the cable (1 Gbit/s): the rest is for the guests' own writes.
    "--c-max-rate=95M",
    // On its way at any time. The kernel's own 50 KiB would leave the line idle between a request and
    // its answer through the tunnel; each guest's write waits behind it, at 1 MiB for 9 ms at most.
    "--c-fill-target=1M",
    // Where a resync begins; from there it is steered. The kernel's own is 250 KiB/s.
    "--resync-rate=20M",
    "--al-extents=3389",
    // The pool's chunk, which reads as zeros once discarded: else a resync would fill the pool.
    "--rs-discard-granularity=65536",
];

/// Where DRBD's programs are, and what the kernel calls to fence the peer.
#[derive(Debug, Clone)]
pub struct DrbdPaths {
    /// The 8.4 flavour of drbdsetup.
    pub drbdsetup: String,
    /// drbdmeta.
    pub drbdmeta: String,
    /// Our fence-peer helper.
    pub helper: String,
}

impl Default for DrbdPaths {
    fn default() -> Self {
        Self {
            drbdsetup: "/usr/lib/drbd/drbdsetup-84".to_owned(),
            drbdmeta: "drbdmeta".to_owned(),
            helper: "/usr/lib/forecourt/drbd-helper".to_owned(),
        }
    }
}

/// [`Replication`] by DRBD 8.4.
pub struct DrbdReplication {
    runner: Arc<dyn CommandRunner>,
    paths: DrbdPaths,
}

impl DrbdReplication {
    /// With the paths of the server image.
    #[must_use]
    pub fn new(runner: Arc<dyn CommandRunner>) -> Self {
        Self::with_paths(runner, DrbdPaths::default())
    }

    /// With other paths.
    #[must_use]
    pub fn with_paths(runner: Arc<dyn CommandRunner>, paths: DrbdPaths) -> Self {
        Self { runner, paths }
    }

    fn setup(&self, words: &[&str]) -> Command {
        Command::new(&self.paths.drbdsetup, words.iter().copied()).limit(LIMIT)
    }

    async fn drbd(&self, words: &[&str]) -> Result<()> {
        self.runner.check(self.setup(words)).await.map(drop)
    }

    fn meta(&self, spec: &ReplicaSpec, flags: &[&str], verb: &str) -> Command {
        let (number, backing) = (spec.number.to_string(), spec.backing.display().to_string());
        let words = [number.as_str(), "v08", &backing, "internal", verb];
        Command::new(&self.paths.drbdmeta, flags.iter().chain(&words).copied())
            .limit(Duration::from_secs(60))
    }

    /// Runs drbdmeta, waiting for others to close the volume.
    async fn metadata(&self, command: Command) -> Result<Finished> {
        let until = Instant::now() + BUSY_LIMIT;
        loop {
            let finished = self.runner.run(command.clone()).await?;
            let busy = finished.stderr.contains("Device or resource busy");
            if !busy || Instant::now() >= until {
                return Ok(finished);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn find(&self, number: u32) -> Result<Option<ReplicaStatus>> {
        Ok(self.status().await?.into_iter().find(|status| status.number == number))
    }

    /// The kernel's view of this volume, if it has one; refused if the number is another's.
    async fn own(&self, spec: &ReplicaSpec) -> Result<Option<ReplicaStatus>> {
        let resource = spec.resource();
        match self.find(spec.number).await? {
            Some(status) if status.resource != resource => Err(GlueError::refused(
                format!("bring up {resource}"),
                format!("number {} belongs to {}", spec.number, status.resource),
            )),
            found => Ok(found),
        }
    }

    async fn attach_disk(&self, spec: &ReplicaSpec) -> Result<()> {
        let backing = spec.backing.display().to_string();
        let number = spec.number.to_string();
        let size = format!("--size={}s", spec.guest_bytes / 512);
        let mut words = vec!["attach", &number, &backing, &backing, "internal", &size];
        words.extend(DISK_OPTIONS);
        // One after the other, the same on both servers: the limits are each volume's own, and a site's volumes
        // have one cable. The kernel ignores a number that no volume has.
        let after = spec.number.checked_sub(1).map(|number| format!("--resync-after={number}"));
        words.extend(after.as_deref());
        self.drbd(&words).await
    }

    async fn check_size(&self, spec: &ReplicaSpec) -> Result<()> {
        let seen = self.device_bytes(spec.number).await?;
        if seen == spec.guest_bytes {
            return Ok(());
        }
        Err(GlueError::refused(
            format!("use {}", spec.device().display()),
            format!("it shows {seen} bytes instead of {}", spec.guest_bytes),
        ))
    }
}

fn endpoint(address: IpAddr, number: u32) -> Result<String> {
    let port = u16::try_from(number)
        .ok()
        .filter(|_| number <= NUMBER_MAX)
        .and_then(|number| PORT_BASE.checked_add(number))
        .ok_or_else(|| {
            GlueError::refused("connect", format!("volume number {number} is too high"))
        })?;
    Ok(match address {
        IpAddr::V4(address) => format!("ipv4:{address}:{port}"),
        IpAddr::V6(address) => format!("ipv6:[{address}]:{port}"),
    })
}

/// Whether a fence-peer helper of the resource runs.
fn helper_runs(proc: &Path, resource: &str) -> Result<bool> {
    let entries = std::fs::read_dir(proc).map_err(|err| GlueError::file("list", proc, err))?;
    Ok(entries.flatten().any(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.len() >= 3
            && words[0].ends_with(b"drbd-helper")
            && words[1] == b"fence-peer"
            && words[2] == resource.as_bytes()
    }))
}

#[async_trait]
impl Replication for DrbdReplication {
    async fn load(&self) -> Result<()> {
        let parameter = PathBuf::from(MODULE).join("parameters/usermode_helper");
        let loaded = std::fs::read_to_string(&parameter);
        if loaded.is_ok_and(|now| now.trim() == self.paths.helper) {
            return Ok(());
        }
        let helper = format!("usermode_helper={}", self.paths.helper);
        self.runner.check(Command::new("modprobe", ["drbd", &helper, "minor_count=64"])).await?;
        let read = || std::fs::read_to_string(&parameter);
        let now = read().map_err(|err| GlueError::file("read", &parameter, err))?;
        if now.trim() != self.paths.helper {
            std::fs::write(&parameter, &self.paths.helper)
                .map_err(|err| GlueError::file("write", &parameter, err))?;
        }
        Ok(())
    }

    async fn create_metadata(&self, spec: &ReplicaSpec) -> Result<MetadataOutcome> {
        if self.own(spec).await?.is_some_and(|status| status.disk != DiskState::Diskless) {
            return Ok(MetadataOutcome::Existed);
        }
        let for_reading = spec.clone();
        let tail = tokio::task::spawn_blocking(move || inspect(&for_reading))
            .await
            .map_err(|err| GlueError::parse("the backing volume", err))??;
        if tail == Tail::Empty {
            let command = self.meta(spec, &["--force"], "create-md");
            let shown = command.shown();
            let finished = self.metadata(command).await?;
            return if finished.ok() {
                tracing::info!(resource = %spec.resource(), "replication metadata made");
                Ok(MetadataOutcome::Created)
            } else {
                Err(failed(shown, &finished))
            };
        }
        let finished = self.metadata(self.meta(spec, &[], "dump-md")).await?;
        // After a crash the dump is refused until apply-al ran; the metadata is there all the same.
        let words = format!("{}{}", finished.stdout, finished.stderr);
        if finished.ok() || words.contains("unclean") {
            return Ok(MetadataOutcome::Existed);
        }
        Err(GlueError::refused(
            format!("write metadata to {}", spec.backing.display()),
            "something else is written behind the guest's last byte",
        ))
    }

    async fn attach(&self, spec: &ReplicaSpec) -> Result<()> {
        let (resource, number) = (spec.resource(), spec.number.to_string());
        let present = self.own(spec).await?;
        if present.is_none_or(|status| status.disk == DiskState::Diskless) {
            let command = self.meta(spec, &[], "apply-al");
            let shown = command.shown();
            let applied = self.metadata(command).await?;
            if !applied.ok() {
                return Err(failed(shown, &applied));
            }
            self.drbd(&["new-resource", &resource, "--on-no-data-accessible=suspend-io"]).await?;
            self.drbd(&["new-minor", &resource, &number, "0"]).await?;
            self.attach_disk(spec).await?;
        }
        self.check_size(spec).await
    }

    async fn connect(&self, spec: &ReplicaSpec) -> Result<()> {
        let link = self.own(spec).await?.map(|status| status.link);
        let missing = || GlueError::Missing { what: format!("resource {}", spec.resource()) };
        if link.ok_or_else(missing)? != LinkState::StandAlone {
            return Ok(());
        }
        let (own, peer) = (endpoint(spec.own, spec.number)?, endpoint(spec.peer, spec.number)?);
        let resource = spec.resource();
        let mut words = vec!["connect", &resource, &own, &peer];
        words.extend(NET_OPTIONS);
        let secret = format!("--shared-secret={}", spec.secret.0);
        self.runner.check(self.setup(&words).secret_arg(secret)).await.map(drop)
    }

    async fn disconnect(&self, spec: &ReplicaSpec) -> Result<()> {
        let (own, peer) = (endpoint(spec.own, spec.number)?, endpoint(spec.peer, spec.number)?);
        let command = self.setup(&["disconnect", &own, &peer]);
        let shown = command.shown();
        let finished = self.runner.run(command).await?;
        let absent = finished.stderr.contains("unknown connection");
        if finished.ok() || absent { Ok(()) } else { Err(failed(shown, &finished)) }
    }

    async fn skip_first_sync(&self, spec: &ReplicaSpec) -> Result<()> {
        let missing = || GlueError::Missing { what: format!("resource {}", spec.resource()) };
        let status = self.own(spec).await?.ok_or_else(missing)?;
        let new = status.disk == DiskState::Inconsistent
            && status.peer_disk == DiskState::Inconsistent
            && status.link == LinkState::Connected;
        if !new {
            let reason = format!("it is no new, connected volume: {status:?}");
            return Err(GlueError::refused(
                format!("skip the sync of {}", spec.resource()),
                reason,
            ));
        }
        self.drbd(&["new-current-uuid", &spec.number.to_string(), "--clear-bitmap"]).await
    }

    async fn primary(&self, number: u32, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let number = number.to_string();
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(RETRY);
            let command = self.setup(&["primary", &number]).limit(left);
            let shown = command.shown();
            let finished = self.runner.run(command).await?;
            if finished.ok() {
                return Ok(());
            }
            if finished.code != Some(EXIT_REFUSED) || Instant::now() + RETRY >= until {
                return Err(failed(shown, &finished));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn secondary(&self, number: u32) -> Result<()> {
        let until = Instant::now() + BUSY_LIMIT;
        let number = number.to_string();
        loop {
            let command = self.setup(&["secondary", &number]);
            let shown = command.shown();
            let finished = self.runner.run(command).await?;
            if finished.ok() {
                return Ok(());
            }
            let held = finished.stderr.contains("held open");
            if !held || Instant::now() >= until {
                return Err(failed(shown, &finished));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn outdate(&self, number: u32) -> Result<()> {
        self.drbd(&["outdate", &number.to_string()]).await
    }

    async fn detach_forced(&self, number: u32) -> Result<()> {
        if let Some(status) = self.find(number).await? {
            // Else the volume would stay frozen for want of data, and QEMU could not exit.
            self.drbd(&["resource-options", &status.resource, "--on-no-data-accessible=io-error"])
                .await?;
        }
        self.drbd(&["detach", &number.to_string(), "--force"]).await
    }

    async fn verify(&self, number: u32) -> Result<()> {
        self.drbd(&["verify", &number.to_string()]).await
    }

    async fn resume_io(&self, number: u32) -> Result<()> {
        self.drbd(&["resume-io", &number.to_string()]).await
    }

    async fn down(&self, helpers: HelpersGone) -> Result<()> {
        if helper_runs(Path::new("/proc"), &helpers.resource)? {
            let operation = format!("take {} down", helpers.resource);
            return Err(GlueError::refused(operation, "a fence-peer helper runs again"));
        }
        self.drbd(&["down", &helpers.resource]).await
    }

    async fn helpers_gone(&self, resource: &str, limit: Duration) -> Result<HelpersGone> {
        let until = Instant::now() + limit;
        while helper_runs(Path::new("/proc"), resource)? {
            if Instant::now() >= until {
                let what = format!("the fence-peer helper of {resource}");
                return Err(GlueError::Timeout { what, limit });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(HelpersGone { resource: resource.to_owned() })
    }

    async fn start_over(&self, spec: &ReplicaSpec) -> Result<()> {
        self.metadata_anew(spec).await
    }

    async fn adopt(&self, order: AdoptOrder) -> Result<()> {
        let (resource, cause) = (order.spec.resource(), &order.cause);
        tracing::warn!(resource, cause, "a copy that nothing vouches for is declared the newest");
        self.declare_newest(&order.spec).await
    }

    async fn status(&self) -> Result<Vec<ReplicaStatus>> {
        let text =
            self.runner.check(self.setup(&["events2", "all", "--now", "--statistics"])).await?;
        Ok(parse::status(&text))
    }

    async fn device_bytes(&self, number: u32) -> Result<u64> {
        let path = PathBuf::from(format!("/sys/block/drbd{number}/size"));
        let text =
            std::fs::read_to_string(&path).map_err(|err| GlueError::file("read", &path, err))?;
        let sectors: u64 =
            text.trim().parse().map_err(|err| GlueError::parse("a device's size", err))?;
        Ok(sectors * 512)
    }

    async fn events(&self) -> Result<mpsc::Receiver<ReplicaEvent>> {
        Ok(super::events::stream(self.paths.drbdsetup.clone()))
    }
}

/// Size of any block device or file, in bytes.
///
/// # Errors
/// [`GlueError::File`] if it cannot be opened.
pub fn backing_bytes(path: &Path) -> Result<u64> {
    device_bytes(path)
}

#[cfg(test)]
#[path = "drbd_tests.rs"]
mod tests;
