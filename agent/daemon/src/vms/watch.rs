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
use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(1);
/// A guest that has not answered by now is stuck, or its template's probe is wrong.
const SILENT: Duration = Duration::from_secs(180);
/// Of a guest's console, as much is told.
const LAST_WORDS_CHARS: usize = 300;

/// What is done to a VM; what QEMU says meanwhile means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nothing.
    Nothing,
    /// It is started.
    Starting,
    /// It is handed to the other server while it runs.
    Leaving,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    run: VmRun,
    doing: Doing,
    well: bool,
    since: Instant,
    /// It answered since, or was told not to.
    heard: bool,
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
            self.put(&vm.name, run, Doing::Nothing);
            found.push((vm.name, run));
        }
        Ok(found)
    }

    fn put(&self, vm: &VmName, run: VmRun, doing: Doing) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let old = seen.get(vm).copied();
        seen.insert(vm.clone(), Seen::after(old, run, doing));
        old.map(|old| old.run) != Some(run)
    }

    fn get(&self, vm: &VmName) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(vm).copied()
    }

    /// A VM is being started or stopped, or has changed.
    pub async fn set(&self, vm: &VmName, run: VmRun, doing: Doing) {
        let changed = self.put(vm, run, doing);
        self.show(vm);
        if changed {
            tracing::info!(%vm, ?run, "VM state");
            drop(self.inputs.send(Input::VmState { vm: vm.clone(), state: run }).await);
        }
    }

    fn show(&self, vm: &VmName) {
        let Some(entry) = self.registry.get(vm) else { return };
        let (phase, detail) = self.get(vm).map_or((VmPhase::Standby, ""), Seen::words);
        if entry.ready {
            self.hub.vm(vm, &entry.template, phase, detail);
        }
    }

    /// Looks at every VM once a second, for ever.
    pub async fn run(self) {
        while !self.inputs.is_closed() {
            for entry in self.registry.all() {
                let name = entry.assignment.name.clone();
                match self.get(&name) {
                    Some(seen) if seen.doing == Doing::Nothing && alive(seen.run) => {
                        self.look(&name, seen).await
                    }
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
        let left_alone = |seen: Seen| seen.doing == Doing::Nothing && seen.run == before.run;
        if self.get(vm).is_some_and(left_alone) && now != before.run {
            if now == VmRun::Failed {
                self.hub.event("vm_ended", format!("{vm} ended by itself"));
            }
            self.set(vm, now, Doing::Nothing).await;
        }
    }

    async fn probe(&self, entry: &VmEntry) {
        let name = &entry.assignment.name;
        let (Some(spec), Some(address)) = (&entry.vm.probe, address(entry)) else {
            self.show(name);
            return;
        };
        let well = probe::healthy(spec, address).await;
        let Some((turned, silent)) = self.note(name, well) else { return };
        self.show(name);
        if turned {
            let (code, words) =
                if well { ("vm_healthy", "answers") } else { ("vm_unhealthy", "does not answer") };
            self.hub.event(code, format!("{name} {words} on {address}"));
        }
        if silent {
            let minutes = SILENT.as_secs() / 60;
            let said = self.vms.console_tail(name).await;
            let said =
                said.map_or_else(|err| format!("cannot be read: {err}"), |text| last_words(&text));
            let text = format!(
                "{name} runs, but has not answered on {address} for {minutes} min; its console: {said}"
            );
            self.hub.event("vm_silent", text);
        }
    }

    fn note(&self, vm: &VmName, well: bool) -> Option<(bool, bool)> {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |seen: &&mut Seen| seen.run == VmRun::Running && seen.doing == Doing::Nothing;
        let seen = all.get_mut(vm).filter(idle)?;
        Some(seen.probed(well, Instant::now()))
    }
}

impl Seen {
    /// A guest that leaves while it runs is as well as it was.
    fn after(old: Option<Self>, run: VmRun, doing: Doing) -> Self {
        match old {
            Some(old) if old.run == run && [old.doing, doing].contains(&Doing::Leaving) => {
                Self { doing, ..old }
            }
            _ => Self { run, doing, well: false, since: Instant::now(), heard: false },
        }
    }

    /// The same in people's words.
    fn words(self) -> (VmPhase, &'static str) {
        match (self.run, self.doing) {
            (VmRun::Running, Doing::Starting) => (VmPhase::Starting, ""),
            (VmRun::Running, Doing::Leaving) => {
                let phase = if self.well { VmPhase::Healthy } else { VmPhase::Running };
                (phase, "on its way to the other server")
            }
            (VmRun::Running, Doing::Nothing) if self.well => (VmPhase::Healthy, ""),
            (VmRun::Running, Doing::Nothing) => (VmPhase::Running, ""),
            (VmRun::Paused, _) => (VmPhase::Frozen, ""),
            (VmRun::Failed, _) => (VmPhase::Failed, ""),
            (VmRun::Stopped, _) => (VmPhase::Standby, ""),
        }
    }

    /// Whether its health has turned, and whether it must be told now that it never answered.
    fn probed(&mut self, well: bool, now: Instant) -> (bool, bool) {
        let turned = self.well != well;
        let silent = !well && !self.heard && now - self.since >= SILENT;
        self.well = well;
        self.heard |= well || silent;
        (turned, silent)
    }
}

/// The end of what a guest wrote to its console, in one line.
fn last_words(console: &str) -> String {
    let words = console.split(|c: char| c.is_control() || c == ' ').filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    let skipped = line.chars().count().saturating_sub(LAST_WORDS_CHARS);
    if line.is_empty() { "empty".to_owned() } else { line.chars().skip(skipped).collect() }
}

fn alive(run: VmRun) -> bool {
    matches!(run, VmRun::Running | VmRun::Paused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_guest_never_answered_is_told_once_and_a_silence_later_is_not_that() {
        let since = Instant::now();
        let new = Seen { since, ..Seen::after(None, VmRun::Running, Doing::Nothing) };
        let (mut stuck, mut fine) = (new, new);
        assert_eq!(stuck.probed(false, since + SILENT / 2), (false, false), "it boots");
        assert_eq!(stuck.probed(false, since + SILENT), (false, true));
        assert_eq!(stuck.probed(false, since + SILENT * 2), (false, false), "told already");
        assert_eq!(stuck.probed(true, since + SILENT * 3), (true, false));
        assert_eq!(fine.probed(true, since + SILENT / 2), (true, false));
        assert_eq!(
            fine.probed(false, since + SILENT * 2),
            (true, false),
            "that it fell silent is said"
        );
    }

    #[test]
    fn a_guest_on_its_way_is_shown_as_well_as_it_was_and_one_that_starts_as_starting() {
        let mut seen = Seen::after(None, VmRun::Running, Doing::Starting);
        assert_eq!(seen.words(), (VmPhase::Starting, ""));
        seen = Seen::after(Some(seen), VmRun::Running, Doing::Nothing);
        assert_eq!(seen.words(), (VmPhase::Running, ""));
        seen.probed(true, seen.since);
        assert_eq!(seen.words(), (VmPhase::Healthy, ""));
        seen = Seen::after(Some(seen), VmRun::Running, Doing::Leaving);
        assert_eq!(seen.words(), (VmPhase::Healthy, "on its way to the other server"));
        let stays = Seen::after(Some(seen), VmRun::Running, Doing::Nothing);
        assert_eq!(stays.words(), (VmPhase::Healthy, ""), "it did not get over");
        seen = Seen::after(Some(seen), VmRun::Stopped, Doing::Nothing);
        assert_eq!(seen.words(), (VmPhase::Standby, ""));
    }

    #[test]
    fn last_words_are_one_line_without_what_would_move_a_terminals_cursor() {
        assert_eq!(
            last_words("\u{1b}[2J\r\nKernel panic\r\n  not syncing\n"),
            "[2J Kernel panic not syncing"
        );
        assert_eq!(last_words("\n"), "empty");
        let long = "x".repeat(1000) + " end";
        let said = last_words(&long);
        assert_eq!((said.chars().count(), said.ends_with(" end")), (LAST_WORDS_CHARS, true));
    }
}
