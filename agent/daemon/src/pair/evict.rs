// SPDX-License-Identifier: Apache-2.0
//! Evicting VMs from a server that lost: the order is what keeps data safe (ha.md 4.5).
//!
//! `resume-io` before `detach` would complete writes locally that the winner never saw; `down`
//! with a fence helper outstanding crashes the kernel. A step that blocks ends the eviction.

use super::volumes::{VolumeHands, done};
use hypervisor_glue::replication::ReplicaSpec;
use hypervisor_glue::vms::Vms;
use provisioning_protocol::ids::VmName;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const STEP_LIMIT: Duration = Duration::from_secs(5);
const KNOWN_LIMIT: Duration = Duration::from_secs(10);

/// Evicts; whether no QEMU of these VMs is left and their volumes are secondary, and the volumes that
/// are to rejoin.
pub async fn evict(
    hands: &VolumeHands,
    vms: &Arc<dyn Vms>,
    names: &[VmName],
) -> (bool, Vec<ReplicaSpec>) {
    let (mut all, mut free) = (true, Vec::new());
    for name in names {
        match one(hands, vms, name).await {
            Some(specs) => free.extend(specs),
            None => all = false,
        }
    }
    (all, free)
}

async fn one(hands: &VolumeHands, vms: &Arc<dyn Vms>, vm: &VmName) -> Option<Vec<ReplicaSpec>> {
    let replication = &hands.replication;
    // Just after a restart of the agent the volumes may not have been looked up yet.
    let Some(specs) = known(hands, vm).await else {
        tracing::error!(%vm, "its volumes are not known");
        return None;
    };
    let kernel = timeout(STEP_LIMIT, replication.status()).await.ok()?.ok()?;
    // A volume that is not attached holds nothing back.
    let specs: Vec<ReplicaSpec> = specs
        .into_iter()
        .filter(|spec| kernel.iter().any(|status| status.number == spec.number))
        .collect();
    step("tap down", vm, vms.set_link(vm, false)).await;
    for spec in &specs {
        if !step("detach", vm, replication.detach_forced(spec.number)).await {
            return None;
        }
    }
    for spec in &specs {
        step("resume-io", vm, replication.resume_io(spec.number)).await;
    }
    if !step("kill", vm, vms.kill(vm)).await {
        return None;
    }
    for spec in &specs {
        if !step("secondary", vm, replication.secondary(spec.number)).await {
            return None;
        }
    }
    Some(specs)
}

async fn known(hands: &VolumeHands, vm: &VmName) -> Option<Vec<ReplicaSpec>> {
    let end = Instant::now() + KNOWN_LIMIT;
    loop {
        if let Some(entry) = hands.registry.get(vm) {
            return Some(entry.replicas);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Nothing of the VM is left on these volumes: rejoining may fail without being unsafe. What they hold
/// will be overwritten, so a copy is kept first.
pub async fn rejoin(hands: &VolumeHands, spec: &ReplicaSpec) {
    let replication = &hands.replication;
    match replication.helpers_gone(&spec.resource(), STEP_LIMIT).await {
        Ok(gone) => {
            step("down", &spec.vm, replication.down(gone)).await;
        }
        Err(err) => {
            done("wait for helpers", &spec.vm, Err::<(), _>(err));
            return;
        }
    }
    if step("attach", &spec.vm, replication.attach(spec)).await {
        hands.keeper.before_connect(spec).await;
        step("connect", &spec.vm, replication.connect(spec)).await;
    }
}

async fn step<T, F>(what: &'static str, vm: &VmName, job: F) -> bool
where
    F: Future<Output = hypervisor_glue::Result<T>>,
{
    match timeout(STEP_LIMIT, job).await {
        Ok(result) => done(what, vm, result),
        Err(_) => {
            tracing::error!(what, %vm, "an eviction step blocks");
            false
        }
    }
}
