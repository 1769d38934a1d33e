// SPDX-License-Identifier: Apache-2.0
//! Watches the replicated volumes: tells the core of every change, finishes new volumes.

use super::keep::Keeper;
use super::summary::summary;
use crate::hq::client::error_chain;
use crate::status::{Concern, Hub};
use crate::vms::registry::{Registry, VmEntry};
use agent_core::{Input, LinkSummary};
use hypervisor_glue::replication::{
    DiskState, LinkState, ReplicaEvent, ReplicaStatus, Replication,
};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::report::VmPhase;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Without events nothing changes but the resync's progress, and volumes in the making.
const PERIOD_CALM: Duration = Duration::from_secs(3);
const PERIOD_BUSY: Duration = Duration::from_millis(500);
/// Roles are the agents' own doing: they are looked at soon.
const PERIOD_ROLES: Duration = Duration::from_secs(1);
/// Volumes that exist may take this long to be attached after a start of the agent; then they
/// count as lost. Until then the core is told nothing: without volumes it would take itself for
/// a server that has none.
const ATTACH_LIMIT: Duration = Duration::from_secs(60);

/// The monitor.
pub struct Monitor {
    /// This server's place.
    pub slot: NodeSlot,
    /// Replication.
    pub replication: Arc<dyn Replication>,
    /// Which volumes there are.
    pub registry: Arc<Registry>,
    /// Copies from before a resync.
    pub keeper: Keeper,
    /// Status.
    pub hub: Arc<Hub>,
    /// The core.
    pub inputs: mpsc::Sender<Input>,
    /// New volumes exist, or a look is wanted.
    pub changed: Arc<Notify>,
    /// Set by a helper call, cleared here.
    pub split_brain: Arc<AtomicBool>,
}

impl Monitor {
    /// Runs until the core is gone. `found`: what there was at the start of this agent.
    pub async fn run(self, found: Vec<ReplicaStatus>) {
        let mut last: Option<LinkSummary> = None;
        if !self.attaching(&found) && !found.is_empty() {
            // VMs may run under an earlier agent's lease: the core must see soon that all is well.
            self.tell(&found, &mut last).await;
        }
        while let Err(err) = self.replication.load().await {
            let words = format!("Replication is not available: {}", error_chain(&err));
            self.hub.problem(Concern::Disks, "drbd", Some(words));
            tokio::time::sleep(PERIOD_CALM).await;
        }
        self.hub.problem(Concern::Disks, "drbd", None);
        let mut events = None;
        let started = Instant::now();
        while !self.inputs.is_closed() {
            if events.is_none() {
                events = self.replication.events().await.ok();
            }
            if let Ok(statuses) = self.replication.status().await {
                self.keeper.saw(&statuses);
                self.finish_new(&statuses).await;
                if !self.attaching(&statuses) || started.elapsed() >= ATTACH_LIMIT {
                    self.tell(&statuses, &mut last).await;
                }
            }
            let busy = last.is_none()
                || last.is_some_and(|line| line.resync_percent.is_some())
                || self.registry.all().iter().any(|entry| !entry.ready);
            let period = if busy { PERIOD_BUSY } else { PERIOD_CALM };
            self.wait(&mut events, last, period).await;
        }
    }

    /// Whether volumes that exist are still to come. After a restart of the agent the kernel still
    /// has them all.
    fn attaching(&self, statuses: &[ReplicaStatus]) -> bool {
        let attached = |number| statuses.iter().any(|status| status.number == number);
        self.registry.awaited() > 0 && !self.registry.counted().into_iter().all(attached)
    }

    /// Until a look is due. Each runs a program, so what it would not show anew does not call for one at once:
    /// volumes change hands while a guest stands still.
    async fn wait(
        &self,
        events: &mut Option<mpsc::Receiver<ReplicaEvent>>,
        last: Option<LinkSummary>,
        period: Duration,
    ) {
        let mut until = Instant::now() + period;
        loop {
            let event = async {
                match events {
                    Some(stream) => stream.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = event => match event {
                    Some(event) if is_calm(&event, last) => {
                        until = until.min(Instant::now() + PERIOD_ROLES);
                        continue;
                    }
                    Some(event) => {
                        tracing::debug!(?event, "replication event");
                        while let Some(Ok(_)) = events.as_mut().map(mpsc::Receiver::try_recv) {}
                    }
                    None => {
                        *events = None;
                        tokio::time::sleep(PERIOD_BUSY).await;
                    }
                },
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
            return;
        }
    }

    async fn tell(&self, statuses: &[ReplicaStatus], last: &mut Option<LinkSummary>) {
        let counted = self.registry.counted();
        let mut line = summary(&counted, statuses, self.split_brain.load(Ordering::Relaxed));
        if line.connected && line.split_brain {
            self.split_brain.store(false, Ordering::Relaxed);
            line.split_brain = false;
        }
        if *last == Some(line) {
            return;
        }
        self.note(last.as_ref(), &line);
        *last = Some(line);
        drop(self.inputs.send(Input::LinkChanged(line)).await);
    }

    fn note(&self, old: Option<&LinkSummary>, new: &LinkSummary) {
        tracing::info!(?new, "replication");
        self.hub.update(|state| state.resync_percent = new.resync_percent);
        let was = old.and_then(|line| line.resync_percent).is_some();
        match (was, new.resync_percent.is_some()) {
            (false, true) => self.hub.event("resync_started", "the volumes are being resynced"),
            (true, false) if new.connected => {
                self.hub.event("resync_done", "the volumes are equal again");
            }
            _ => {}
        }
    }

    /// New volumes: declare both sides equal (server A, once), and note when they are ready.
    async fn finish_new(&self, statuses: &[ReplicaStatus]) {
        for entry in self.registry.all().into_iter().filter(|entry| !entry.ready) {
            let of: Vec<&ReplicaStatus> = numbers(&entry)
                .filter_map(|number| statuses.iter().find(|status| status.number == number))
                .collect();
            if of.len() != entry.replicas.len() {
                continue;
            }
            // Volumes that were in sync before are never declared equal again.
            if self.slot == NodeSlot::A && !entry.counted {
                self.skip_first_sync(&entry, &of).await;
            }
            let in_sync = |status: &&ReplicaStatus| {
                status.link == LinkState::Connected
                    && status.disk == DiskState::UpToDate
                    && status.peer_disk == DiskState::UpToDate
            };
            if of.iter().all(in_sync) {
                self.ready(&entry).await;
            }
        }
    }

    /// Both sides hold the same verified image, or nothing but zeros.
    async fn skip_first_sync(&self, entry: &VmEntry, statuses: &[&ReplicaStatus]) {
        for status in statuses {
            let new = status.link == LinkState::Connected
                && status.disk == DiskState::Inconsistent
                && status.peer_disk == DiskState::Inconsistent;
            let spec = entry.replicas.iter().find(|spec| spec.number == status.number);
            if let (true, Some(spec)) = (new, spec) {
                tracing::info!(resource = spec.resource(), "new volumes are equal: no first sync");
                if let Err(err) = self.replication.skip_first_sync(spec).await {
                    tracing::warn!(error = error_chain(&err), "first sync not skipped");
                }
            }
        }
    }

    async fn ready(&self, entry: &VmEntry) {
        let vm = entry.assignment.name.clone();
        if let Err(err) = self.registry.mark_ready(&vm) {
            let words = format!("The state partition cannot be written: {}", error_chain(&err));
            self.hub.problem(Concern::State, "ready", Some(words));
            return;
        }
        self.hub.event("volumes_ready", format!("the volumes of {vm} are on both servers"));
        self.hub.vm(&vm, &entry.template, VmPhase::Standby, "");
        drop(self.inputs.send(Input::VolumesReady { vm, ready: true }).await);
    }
}

/// Whether an event leaves all that the core was told last as it is.
fn is_calm(event: &ReplicaEvent, last: Option<LinkSummary>) -> bool {
    let Some(last) = last.filter(|last| last.connected && !last.frozen) else { return false };
    match event {
        ReplicaEvent::Role { .. } => true,
        ReplicaEvent::Link { link, .. } => {
            *link == LinkState::Connected && last.resync_percent.is_none()
        }
        ReplicaEvent::Changed { .. } | ReplicaEvent::Restarted => false,
    }
}

fn numbers(entry: &VmEntry) -> impl Iterator<Item = u32> + '_ {
    entry.replicas.iter().map(|spec| spec.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_calls_for_no_look_at_once_and_whatever_the_core_does_not_know_does() {
        let well = LinkSummary { connected: true, ..LinkSummary::default() };
        let resource = || "till-data".to_owned();
        let role = ReplicaEvent::Role { resource: resource() };
        let link = |link| ReplicaEvent::Link { resource: resource(), link };
        assert!(is_calm(&role, Some(well)) && is_calm(&link(LinkState::Connected), Some(well)));
        let changed = ReplicaEvent::Changed { resource: resource(), detail: String::new() };
        for event in [link(LinkState::Lost), changed, ReplicaEvent::Restarted] {
            assert!(!is_calm(&event, Some(well)), "{event:?}");
        }
        let (frozen, parted) = (LinkSummary { frozen: true, ..well }, LinkSummary::default());
        for last in [None, Some(frozen), Some(parted)] {
            assert!(!is_calm(&role, last), "{last:?}");
        }
    }
}
