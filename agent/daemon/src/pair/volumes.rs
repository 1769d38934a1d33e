// SPDX-License-Identifier: Apache-2.0
//! What the core orders about replicated volumes, carried out one after the other.

use super::keep::Keeper;
use crate::hq::client::error_chain;
use crate::vms::registry::Registry;
use futures_util::future::join_all;
use hypervisor_glue::GlueError;
use hypervisor_glue::replication::{LinkState, ReplicaSpec, Replication, Role};
use provisioning_protocol::ids::VmName;
use std::sync::Arc;
use std::time::Duration;

/// The kernel may not have seen the link die yet (ha.md 4.3).
const PROMOTE_LIMIT: Duration = Duration::from_secs(5);

/// Replicated volumes of this server.
#[derive(Clone)]
pub struct VolumeHands {
    /// Replication.
    pub replication: Arc<dyn Replication>,
    /// Which volumes there are.
    pub registry: Arc<Registry>,
    /// Copies from before a resync.
    pub keeper: Keeper,
}

impl VolumeHands {
    fn ready(&self) -> Vec<ReplicaSpec> {
        let entries = self.registry.all().into_iter().filter(|entry| entry.counted);
        entries.flat_map(|entry| entry.replicas).collect()
    }

    fn of(&self, vm: &VmName) -> Vec<ReplicaSpec> {
        self.registry.get(vm).map(|entry| entry.replicas).unwrap_or_default()
    }

    /// `primary` on every volume of a VM. A VM without volumes is no success.
    pub async fn promote(&self, vm: &VmName) -> bool {
        let specs = self.of(vm);
        self.keeper.before_promote(vm).await;
        let jobs = specs.iter().map(|spec| self.replication.primary(spec.number, PROMOTE_LIMIT));
        let results = join_all(jobs).await;
        !specs.is_empty() && results.into_iter().all(|result| done("promote", vm, result))
    }

    /// `secondary` on every volume of a VM.
    pub async fn demote(&self, vm: &VmName) -> bool {
        let specs = self.of(vm);
        let jobs = specs.iter().map(|spec| self.replication.secondary(spec.number));
        let results = join_all(jobs).await;
        results.into_iter().all(|result| done("demote", vm, result))
    }

    /// Disconnects and marks outdated what is not primary here.
    pub async fn outdate(&self) -> bool {
        let Ok(statuses) = self.replication.status().await else { return false };
        let mut ok = true;
        for spec in self.ready() {
            let role = statuses.iter().find(|s| s.number == spec.number).map(|s| s.role);
            match role {
                Some(Role::Primary) => {}
                Some(_) => {
                    // On a dead link `disconnect` may complain; what counts is the mark.
                    done("disconnect", &spec.vm, self.replication.disconnect(&spec).await);
                    ok &= done("outdate", &spec.vm, self.replication.outdate(spec.number).await);
                }
                None => ok = false,
            }
        }
        ok
    }

    /// Disconnects and connects each volume that is not connected.
    pub async fn reconnect(&self) {
        let Ok(statuses) = self.replication.status().await else { return };
        for spec in self.ready() {
            let status = statuses.iter().find(|s| s.number == spec.number);
            let role = status.map(|status| status.role);
            match status.map(|status| &status.link) {
                Some(link) if link.is_up() || *link == LinkState::Negotiating => continue,
                Some(LinkState::StandAlone) => {}
                Some(_) => {
                    done("disconnect", &spec.vm, self.replication.disconnect(&spec).await);
                }
                None => {
                    done("attach", &spec.vm, self.replication.attach(&spec).await);
                }
            }
            // A frozen primary is in a hurry, and is not overwritten as long as it is one.
            if role != Some(Role::Primary) {
                self.keeper.before_connect(&spec).await;
            }
            done("connect", &spec.vm, self.replication.connect(&spec).await);
        }
    }
}

/// Logs a failure; whether it worked.
pub(super) fn done<T>(what: &str, vm: &VmName, result: Result<T, GlueError>) -> bool {
    match result {
        Ok(_) => true,
        Err(err) => {
            tracing::warn!(what, %vm, error = error_chain(&err), "volume operation failed");
            false
        }
    }
}
