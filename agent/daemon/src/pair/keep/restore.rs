// SPDX-License-Identifier: Apache-2.0
//! Puts what a broken resync left half copied back to the whole copies, and later declares it the
//! newest. The core orders the first by a person's word, and the second under a durable grant alone.

use super::rules;
use super::worker::{Worker, up_to};
use crate::hq::client::error_chain;
use crate::vms::registry::VmEntry;
use hypervisor_glue::GlueError;
use hypervisor_glue::replication::{AdoptOrder, ReplicaSpec};
use hypervisor_glue::volumes::{Keep, RollBackOrder};
use provisioning_protocol::ids::VmName;
use std::time::Duration;

const HELPERS_LIMIT: Duration = Duration::from_secs(5);
const CAUSE: &str = "an operator's word: go on with older data";

impl Worker {
    pub async fn restore(&mut self) -> bool {
        match self.put_all_back().await {
            Ok(()) => true,
            Err(text) => {
                let text = format!("Not put back: {text}.");
                self.parts.hub.event("restore_failed", text);
                false
            }
        }
    }

    async fn put_all_back(&mut self) -> Result<(), String> {
        if !self.load().await {
            return Err("the volumes cannot be read".to_owned());
        }
        let half = self.half_copied().await?;
        // All or nothing: VMs may depend on each other.
        if let Some(entry) = half.iter().find(|entry| self.whole_set(entry).is_none()) {
            return Err(format!("there is no whole copy of {}", entry.assignment.name));
        }
        for entry in &half {
            for spec in &entry.replicas {
                let keep = self.newest(&spec.vm, &spec.disk).map(|kept| kept.keep.clone());
                let keep =
                    keep.ok_or_else(|| format!("there is no copy of {}", spec.resource()))?;
                self.put_back(spec, &keep)
                    .await
                    .map_err(|err| format!("{}: {}", spec.resource(), error_chain(&err)))?;
            }
            let holds_ms = self.whole_set(entry).unwrap_or(0);
            let vm = &entry.assignment.name;
            let text = format!(
                "{vm} was put back to a copy that holds {}: what was written after that is lost.",
                up_to(holds_ms)
            );
            self.parts.hub.event("put_back", text);
        }
        Ok(())
    }

    async fn half_copied(&self) -> Result<Vec<VmEntry>, String> {
        let statuses = self.parts.replication.status().await.map_err(|err| error_chain(&err))?;
        let half = |spec: &ReplicaSpec| {
            let status = statuses.iter().find(|status| status.number == spec.number);
            status.is_some_and(rules::is_half)
        };
        let entries = self.parts.registry.all().into_iter().filter(|entry| entry.counted);
        let half: Vec<VmEntry> = entries.filter(|entry| entry.replicas.iter().any(half)).collect();
        if half.is_empty() { Err("no VM is half copied".to_owned()) } else { Ok(half) }
    }

    async fn put_back(&mut self, spec: &ReplicaSpec, keep: &Keep) -> Result<(), GlueError> {
        let (volumes, replication) = (self.parts.volumes.clone(), self.parts.replication.clone());
        self.take_down(spec).await?;
        // Metadata first: with the copy's own, the other server would send by bitmap what it thinks is
        // missing here, and leave out what it had sent before.
        let order = RollBackOrder::new(keep.clone(), CAUSE);
        let backing = volumes.begin_roll_back(&order).await?;
        replication.start_over(&ReplicaSpec { backing, ..spec.clone() }).await?;
        volumes.finish_roll_back(order).await?;
        self.mark_used(keep);
        replication.attach(spec).await?;
        replication.connect(spec).await
    }

    /// Gives a volume fresh metadata and connects it: the other server's copy is taken whole.
    pub(super) async fn start_over(&self, spec: &ReplicaSpec) -> Result<(), GlueError> {
        let replication = &self.parts.replication;
        self.take_down(spec).await?;
        replication.start_over(spec).await?;
        replication.attach(spec).await?;
        replication.connect(spec).await
    }

    async fn take_down(&self, spec: &ReplicaSpec) -> Result<(), GlueError> {
        if self.status(spec.number).await.is_none() {
            return Ok(());
        }
        let replication = &self.parts.replication;
        let gone = replication.helpers_gone(&spec.resource(), HELPERS_LIMIT).await?;
        replication.down(gone).await
    }

    /// What was put back, and is still cut off from everybody, counts as the newest from now on.
    pub async fn adopt(&mut self, vm: &VmName) {
        let Some(entry) = self.parts.registry.get(vm) else { return };
        for spec in &entry.replicas {
            let used = self.newest(&spec.vm, &spec.disk).is_some_and(|kept| kept.used);
            // Down: an earlier attempt was cut off.
            let status = self.status(spec.number).await;
            let fresh = status.is_none_or(|s| rules::is_half(&s) && !s.link.is_up());
            if !used || !fresh {
                continue;
            }
            if let Err(err) = self.adopt_one(spec).await {
                tracing::error!(
                    resource = spec.resource(),
                    error = error_chain(&err),
                    "not adopted"
                );
            }
        }
    }

    async fn adopt_one(&self, spec: &ReplicaSpec) -> Result<(), GlueError> {
        let replication = &self.parts.replication;
        self.take_down(spec).await?;
        replication.adopt(AdoptOrder::new(spec.clone(), CAUSE)).await?;
        replication.attach(spec).await?;
        replication.connect(spec).await
    }
}
