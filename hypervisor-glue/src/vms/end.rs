// SPDX-License-Identifier: Apache-2.0
//! The end of a QEMU.

use super::halt::ended;
use super::systemd::{SystemdVms, bus};
use super::unit_name;
use crate::error::{GlueError, Result};
use provisioning_protocol::ids::VmName;
use rustix::process::Signal;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const KILL_LIMIT: Duration = Duration::from_secs(10);
/// The guest of a handed-over VM stands still meanwhile.
const POLL: Duration = Duration::from_millis(10);
const SIGKILL: i32 = Signal::KILL.as_raw();

impl SystemdVms {
    /// Kills QEMU and waits until the process is gone, and its volumes are closed with it. Its taps
    /// stay, see [`Vms::tidy`](super::Vms::tidy).
    pub(super) async fn end(&self, vm: &VmName) -> Result<()> {
        let Some(pid) = self.main_pid(vm).await? else { return Ok(()) };
        let killed = self.manager.kill_unit(unit_name(vm), "all".to_owned(), SIGKILL).await;
        let until = Instant::now() + KILL_LIMIT;
        // The kernel tells sooner than systemd does.
        while !ended(Path::new("/proc"), pid) {
            if Instant::now() >= until {
                killed.map_err(|err| bus(&format!("kill VM {vm}"), &err))?;
                let what = format!("the end of VM {vm}");
                return Err(GlueError::Timeout { what, limit: KILL_LIMIT });
            }
            sleep(POLL).await;
        }
        Ok(())
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
