// SPDX-License-Identifier: Apache-2.0
//! The end of a QEMU.

use super::halt::ended;
use super::systemd::{SystemdVms, bus};
use super::unit_name;
use crate::error::{GlueError, Result};
use provisioning_protocol::ids::VmName;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setpriority_process,
};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const KILL_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const SIGKILL: i32 = Signal::KILL.as_raw();

/// A QEMU as the kernel holds it (pidfd_open(2)): never another process of the same number.
pub(super) struct Held {
    pid: u32,
    fd: OwnedFd,
}

impl Held {
    /// None if there is no such process.
    fn of(pid: u32) -> Result<Option<Self>> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { pid, fd })),
            Err(Errno::SRCH) => Ok(None),
            Err(err) => Err(failed("take hold of", pid, err)),
        }
    }

    /// Lets these of its threads go before all others of its unit by so many steps (setpriority(2)), or no more.
    /// What is no thread of it is left alone.
    pub fn prefer(&self, threads: &[u32], steps: u8) {
        for thread in threads {
            let known =
                Path::new("/proc").join(self.pid.to_string()).join("task").join(thread.to_string());
            let id = i32::try_from(*thread).ok().and_then(Pid::from_raw);
            if let Some(id) = id.filter(|_| known.exists())
                && let Err(error) = setpriority_process(Some(id), -i32::from(steps))
            {
                tracing::debug!(%error, thread, "a thread keeps its priority");
            }
        }
    }

    /// Kills it and waits until it is gone, and its volumes are closed with it. Nobody else has to be asked:
    /// the guest of a handed-over VM stands still meanwhile.
    pub async fn end(&self, vm: &VmName) -> Result<()> {
        match pidfd_send_signal(&self.fd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => gone(vm, self.pid).await,
            Err(err) => Err(failed("kill", self.pid, err)),
        }
    }
}

fn failed(operation: &'static str, pid: u32, err: Errno) -> GlueError {
    GlueError::file(operation, Path::new("/proc").join(pid.to_string()), err.into())
}

/// Waits for the end of a killed process. The kernel tells sooner than systemd does.
async fn gone(vm: &VmName, pid: u32) -> Result<()> {
    let until = Instant::now() + KILL_LIMIT;
    while !ended(Path::new("/proc"), pid) {
        if Instant::now() >= until {
            let what = format!("the end of VM {vm}");
            return Err(GlueError::Timeout { what, limit: KILL_LIMIT });
        }
        sleep(POLL).await;
    }
    Ok(())
}

impl SystemdVms {
    /// Takes hold of a VM's QEMU.
    pub(super) async fn hold(&self, vm: &VmName) -> Result<Option<Held>> {
        let Some(pid) = self.main_pid(vm).await? else { return Ok(None) };
        let held = Held::of(pid)?;
        // The number may have become another's in between.
        let same = self.main_pid(vm).await? == Some(pid);
        Ok(held.filter(|_| same))
    }

    /// Kills QEMU and waits until the process is gone, and its volumes are closed with it. Its taps
    /// stay, see [`Vms::tidy`](super::Vms::tidy).
    pub(super) async fn end(&self, vm: &VmName) -> Result<()> {
        let Some(pid) = self.main_pid(vm).await? else { return Ok(()) };
        let killed = self.manager.kill_unit(unit_name(vm), "all".to_owned(), SIGKILL).await;
        match (gone(vm, pid).await, killed) {
            (Err(_), Err(err)) => Err(bus(&format!("kill VM {vm}"), &err)),
            (result, _) => result,
        }
    }

    /// Removes the taps of a VM that has no QEMU here.
    pub(super) async fn remove_leftovers(&self, vm: &VmName) -> Result<()> {
        let load = self.load_of(vm);
        let loaded = load.lock().await;
        if loaded.is_some() || self.main_pid(vm).await?.is_some() {
            return Ok(());
        }
        self.remove_taps(vm).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_held_process_is_killed_and_gone_and_one_that_has_gone_counts_as_killed() {
        let vm = VmName::new("till").expect("valid");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let held = Held::of(child.id()).expect("held").expect("there");
        held.end(&vm).await.expect("killed");
        let status = child.try_wait().expect("asked").expect("it has ended");
        assert!(!status.success());
        held.end(&vm).await.expect("gone already");
    }

    #[tokio::test]
    async fn what_is_not_there_cannot_be_held() {
        assert!(Held::of(0).expect("asked").is_none());
        assert!(Held::of(u32::MAX).expect("asked").is_none());
    }
}
