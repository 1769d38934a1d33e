// SPDX-License-Identifier: Apache-2.0
//! What each VM's QEMU does here, told to the core on every change; and whether the guest is well.

use super::launch::address;
use super::probe;
use super::registry::{Registry, VmEntry};
use crate::status::Hub;
use agent_core::{Input, VmRun};
use hypervisor_glue::GlueError;
use hypervisor_glue::vms::{VmState, Vms};
use provisioning_protocol::ids::VmName;
use provisioning_protocol::report::VmPhase;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Seen {
    run: VmRun,
    /// Being started or stopped: what QEMU says meanwhile means nothing.
    moving: bool,
    well: bool,
}

/// All VMs.
#[derive(Clone)]
pub struct Watch {
    vms: Arc<dyn Vms>,
    registry: Arc<Registry>,
    hub: Arc<Hub>,
    inputs: mpsc::Sender<Input>,
    seen: Arc<Mutex<BTreeMap<VmName, Seen>>>,
}

impl Watch {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(
        vms: Arc<dyn Vms>,
        registry: Arc<Registry>,
        hub: Arc<Hub>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        Self { vms, registry, hub, inputs, seen: Arc::default() }
    }

    /// VMs that run already: an earlier agent started them.
    ///
    /// # Errors
    /// [`GlueError`] if they cannot be listed: not knowing must not pass for none.
    pub async fn adopt(&self) -> Result<Vec<(VmName, VmRun)>, GlueError> {
        let mut found = Vec::new();
        for vm in self.vms.running().await? {
            let run = match self.vms.state(&vm.name).await {
                Ok(VmState::Stopped(_)) => VmRun::Paused,
                Ok(VmState::Absent) => continue,
                Ok(VmState::Prepared) => {
                    // By an agent that is no more; this one decides anew.
                    self.vms.discard(&vm.name).await?;
                    continue;
                }
                // Silent counts as running: its vCPUs may run at any moment.
                _ => VmRun::Running,
            };
            self.hub.event("vm_adopted", format!("{} was found running here", vm.name));
            self.put(&vm.name, run, false);
            found.push((vm.name, run));
        }
        Ok(found)
    }

    fn put(&self, vm: &VmName, run: VmRun, moving: bool) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let old = seen.insert(vm.clone(), Seen { run, moving, well: false });
        old.map(|old| old.run) != Some(run)
    }

    fn get(&self, vm: &VmName) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(vm).copied()
    }

    /// A VM is being started or stopped, or has changed.
    pub async fn set(&self, vm: &VmName, run: VmRun, moving: bool) {
        let changed = self.put(vm, run, moving);
        self.show(vm);
        if changed {
            tracing::info!(%vm, ?run, "VM state");
            drop(self.inputs.send(Input::VmState { vm: vm.clone(), state: run }).await);
        }
    }

    fn show(&self, vm: &VmName) {
        let Some(entry) = self.registry.get(vm) else { return };
        let phase = match self.get(vm) {
            Some(Seen { moving: true, run: VmRun::Running, .. }) => VmPhase::Starting,
            Some(Seen { run: VmRun::Running, well: true, .. }) => VmPhase::Healthy,
            Some(Seen { run: VmRun::Running, .. }) => VmPhase::Running,
            Some(Seen { run: VmRun::Paused, .. }) => VmPhase::Frozen,
            Some(Seen { run: VmRun::Failed, .. }) => VmPhase::Failed,
            Some(Seen { run: VmRun::Stopped, .. }) | None => VmPhase::Standby,
        };
        if entry.ready {
            self.hub.vm(vm, &entry.template, phase, "");
        }
    }

    /// Looks at every VM once a second, for ever.
    pub async fn run(self) {
        while !self.inputs.is_closed() {
            for entry in self.registry.all() {
                let name = entry.assignment.name.clone();
                match self.get(&name) {
                    Some(seen) if !seen.moving && alive(seen.run) => self.look(&name, seen).await,
                    _ => continue,
                }
                if self.get(&name).is_some_and(|seen| seen.run == VmRun::Running) {
                    self.probe(&entry).await;
                }
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn look(&self, vm: &VmName, before: Seen) {
        let now = match self.vms.state(vm).await {
            Ok(VmState::Absent) => VmRun::Failed,
            Ok(VmState::Stopped(_)) => VmRun::Paused,
            Ok(VmState::Running) => VmRun::Running,
            Ok(VmState::Prepared) => {
                // Found silent at the start of this agent, and taken for running.
                drop(self.vms.discard(vm).await);
                VmRun::Failed
            }
            Ok(VmState::Silent) | Err(_) => return,
        };
        // Orders that came while we asked know better.
        let unmoved = self.get(vm).is_some_and(|seen| !seen.moving && seen.run == before.run);
        if unmoved && now != before.run {
            if now == VmRun::Failed {
                self.hub.event("vm_ended", format!("{vm} ended by itself"));
            }
            self.set(vm, now, false).await;
        }
    }

    async fn probe(&self, entry: &VmEntry) {
        let name = &entry.assignment.name;
        let (Some(spec), Some(address)) = (&entry.vm.probe, address(entry)) else {
            self.show(name);
            return;
        };
        let well = probe::healthy(spec, address).await;
        let turned = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            match seen.get_mut(name) {
                Some(seen) if seen.run == VmRun::Running && !seen.moving => {
                    let turned = seen.well != well;
                    seen.well = well;
                    turned
                }
                _ => return,
            }
        };
        self.show(name);
        if turned {
            let (code, words) =
                if well { ("vm_healthy", "answers") } else { ("vm_unhealthy", "does not answer") };
            self.hub.event(code, format!("{name} {words} on {address}"));
        }
    }
}

fn alive(run: VmRun) -> bool {
    matches!(run, VmRun::Running | VmRun::Paused)
}
