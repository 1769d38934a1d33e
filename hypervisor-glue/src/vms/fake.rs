// SPDX-License-Identifier: Apache-2.0
//! VMs in memory, for tests of what starts them.

use super::{Accel, RunningVm, StopOutcome, VmLaunch, VmState, Vms};
use crate::error::{GlueError, Result};
use async_trait::async_trait;
use provisioning_protocol::ids::VmName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// What a running VM has in memory.
const MEMORY: &[u8] = b"till";

/// [`Vms`] in memory.
#[derive(Clone, Default)]
pub struct FakeVms {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<VmName, Running>,
    prepared: BTreeSet<VmName>,
    /// Tickets of QEMUs that wait for memory, and what has come.
    receiving: BTreeMap<VmName, (u64, Vec<u8>)>,
    break_streams: bool,
    launches: Vec<VmLaunch>,
    calls: Vec<String>,
    refuse_start: Option<String>,
    ignore_power_button: bool,
}

struct Running {
    pid: u32,
    state: VmState,
    linked: bool,
}

impl FakeVms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake's state")
    }

    /// Every launch so far.
    #[must_use]
    pub fn launches(&self) -> Vec<VmLaunch> {
        self.state().launches.clone()
    }

    /// Operations so far, such as `start parts-counter`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Lets starts fail with this reason, or succeed again.
    pub fn refuse_start(&self, reason: Option<&str>) {
        self.state().refuse_start = reason.map(str::to_owned);
    }

    /// Lets streams of memory break half way, or not.
    pub fn break_streams(&self, broken: bool) {
        self.state().break_streams = broken;
    }

    /// Lets guests ignore the power button.
    pub fn ignore_power_button(&self, ignore: bool) {
        self.state().ignore_power_button = ignore;
    }

    /// Whether a running VM's taps are up.
    #[must_use]
    pub fn linked(&self, vm: &VmName) -> Option<bool> {
        self.state().running.get(vm).map(|running| running.linked)
    }

    /// Lets a VM's QEMU die by itself.
    pub fn crash(&self, vm: &VmName) {
        self.state().running.remove(vm);
    }

    /// Sets what QEMU says of a running VM.
    pub fn set_state(&self, vm: &VmName, state: VmState) {
        if let Some(running) = self.state().running.get_mut(vm) {
            running.state = state;
        }
    }

    fn change(&self, call: &str, vm: &VmName, change: impl FnOnce(&mut Running)) -> Result<()> {
        let mut state = self.state();
        state.calls.push(format!("{call} {vm}"));
        let missing = || GlueError::Missing { what: format!("VM {vm}") };
        state.running.get_mut(vm).map(change).ok_or_else(missing)
    }
}

#[async_trait]
impl Vms for FakeVms {
    async fn probe_accel(&self) -> Result<Accel> {
        Ok(Accel::Tcg)
    }

    async fn prepare(&self, launch: &VmLaunch) -> Result<()> {
        let mut state = self.state();
        state.calls.push(format!("prepare {}", launch.name));
        if state.running.contains_key(&launch.name) {
            let operation = format!("prepare VM {}", launch.name);
            return Err(GlueError::refused(operation, "it runs here already"));
        }
        state.receiving.remove(&launch.name);
        state.prepared.insert(launch.name.clone());
        Ok(())
    }

    async fn receive(&self, launch: &VmLaunch, ticket: u64) -> Result<()> {
        self.prepare(launch).await?;
        let mut state = self.state();
        state.calls.push(format!("receive {}", launch.name));
        state.receiving.insert(launch.name.clone(), (ticket, Vec::new()));
        Ok(())
    }

    async fn fill(&self, vm: &VmName, ticket: u64, mut wire: TcpStream) -> Result<()> {
        let mut memory = Vec::new();
        let lost = |err| GlueError::file("read", std::path::Path::new("the wire"), err);
        (&mut wire).take(MEMORY.len() as u64).read_to_end(&mut memory).await.map_err(lost)?;
        if let Some(waits) = self.state().receiving.get_mut(vm).filter(|it| it.0 == ticket) {
            waits.1.clone_from(&memory);
        }
        // The way back: all of it is here.
        let answer = [u8::from(memory == MEMORY)];
        wire.write_all(&answer).await.map_err(lost)
    }

    async fn hand(
        &self,
        vm: &VmName,
        mut wire: TcpStream,
        _off: watch::Receiver<bool>,
    ) -> Result<bool> {
        self.change("hand", vm, |_| ())?;
        let broken = self.state().break_streams;
        let sent = if broken { &MEMORY[..1] } else { MEMORY };
        let lost = |err| GlueError::file("write", std::path::Path::new("the wire"), err);
        wire.write_all(sent).await.map_err(lost)?;
        wire.shutdown().await.map_err(lost)?;
        let mut answer = [0];
        let whole = wire.read_exact(&mut answer).await.is_ok() && answer == [1];
        if whole {
            self.state().running.remove(vm);
        }
        Ok(whole)
    }

    async fn discard(&self, vm: &VmName) -> Result<()> {
        let mut state = self.state();
        state.calls.push(format!("discard {vm}"));
        state.receiving.remove(vm);
        state.prepared.remove(vm);
        Ok(())
    }

    async fn start(&self, launch: &VmLaunch, resume: Option<u64>) -> Result<RunningVm> {
        let mut state = self.state();
        let received = state.receiving.remove(&launch.name);
        let whole =
            received.is_some_and(|(ticket, memory)| Some(ticket) == resume && memory == MEMORY);
        let call = if whole { "go on" } else { "start" };
        state.calls.push(format!("{call} {}", launch.name));
        let operation = format!("start VM {}", launch.name);
        if let Some(reason) = &state.refuse_start {
            return Err(GlueError::refused(operation, reason.clone()));
        }
        if state.running.contains_key(&launch.name) {
            return Err(GlueError::refused(operation, "it runs here already"));
        }
        let pid = 1000 + u32::try_from(state.launches.len()).unwrap_or(0);
        state.launches.push(launch.clone());
        state.prepared.remove(&launch.name);
        let running = Running { pid, state: VmState::Running, linked: true };
        state.running.insert(launch.name.clone(), running);
        Ok(RunningVm { name: launch.name.clone(), pid })
    }

    async fn running(&self) -> Result<Vec<RunningVm>> {
        let state = self.state();
        let one = |(name, running): (&VmName, &Running)| RunningVm {
            name: name.clone(),
            pid: running.pid,
        };
        let idle = state.prepared.iter().map(|name| RunningVm { name: name.clone(), pid: 999 });
        Ok(state.running.iter().map(one).chain(idle).collect())
    }

    async fn stop(&self, vm: &VmName, _limit: Duration) -> Result<StopOutcome> {
        let mut state = self.state();
        state.calls.push(format!("stop {vm}"));
        Ok(match (state.running.remove(vm), state.ignore_power_button) {
            (None, _) => StopOutcome::WasAbsent,
            (Some(_), false) => StopOutcome::Clean,
            (Some(_), true) => StopOutcome::Killed,
        })
    }

    async fn kill(&self, vm: &VmName) -> Result<()> {
        let mut state = self.state();
        state.calls.push(format!("kill {vm}"));
        state.running.remove(vm);
        state.prepared.remove(vm);
        Ok(())
    }

    async fn tidy(&self, _vm: &VmName) -> Result<()> {
        Ok(())
    }

    async fn pause(&self, vm: &VmName) -> Result<()> {
        self.change("pause", vm, |running| running.state = VmState::Stopped("paused".to_owned()))
    }

    async fn resume(&self, vm: &VmName) -> Result<()> {
        self.change("resume", vm, |running| running.state = VmState::Running)
    }

    async fn set_link(&self, vm: &VmName, up: bool) -> Result<()> {
        let call = if up { "link-up" } else { "link-down" };
        // Like the real one: no VM, no taps, nothing to do.
        let _ = self.change(call, vm, |running| running.linked = up);
        Ok(())
    }

    async fn state(&self, vm: &VmName) -> Result<VmState> {
        let state = self.state();
        Ok(match state.running.get(vm) {
            Some(running) => running.state.clone(),
            None if state.prepared.contains(vm) => VmState::Prepared,
            None => VmState::Absent,
        })
    }

    async fn console_tail(&self, vm: &VmName) -> Result<String> {
        Ok(format!("console of {vm}\n"))
    }
}
