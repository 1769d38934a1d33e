// SPDX-License-Identifier: Apache-2.0
//! Gives up what the volumes here hold, once it differs from what the other server went on with: each gets
//! fresh metadata, and is copied in full. The core orders it by a person's word.

use super::rules;
use super::worker::Worker;
use crate::hq::client::error_chain;
use hypervisor_glue::replication::ReplicaSpec;

impl Worker {
    pub async fn give_up(&mut self) -> bool {
        match self.give_all_up().await {
            Ok(()) => true,
            Err(text) => {
                let text = format!("Not given up: {text}.");
                self.parts.hub.event("give_up_failed", text);
                false
            }
        }
    }

    async fn give_all_up(&mut self) -> Result<(), String> {
        if !self.load().await {
            return Err("the volumes cannot be read".to_owned());
        }
        let entries = self.parts.registry.all().into_iter().filter(|entry| entry.counted);
        let specs: Vec<ReplicaSpec> = entries.flat_map(|entry| entry.replicas).collect();
        // All or nothing: a copy of each first.
        for spec in &specs {
            self.copy_first(spec).await?;
        }
        for spec in &specs {
            self.start_over(spec)
                .await
                .map_err(|err| format!("{}: {}", spec.resource(), error_chain(&err)))?;
        }
        Ok(())
    }

    /// Keeps what is about to be given up, unless only half of it is there anyway.
    async fn copy_first(&mut self, spec: &ReplicaSpec) -> Result<(), String> {
        let name = spec.resource();
        let status = self.status(spec.number).await;
        let status = status.ok_or_else(|| format!("{name} is not attached"))?;
        if status.link.is_up() {
            return Err(format!("{name} is connected to the other server"));
        }
        if rules::is_half(&status) {
            return Ok(());
        }
        self.before_connect(spec).await;
        match self.newest(&spec.vm, &spec.disk) {
            Some(_) => Ok(()),
            None => Err(format!("no copy of {name} can be kept first, see the events")),
        }
    }
}
