// SPDX-License-Identifier: Apache-2.0
//! The shell of live moves: a QEMU that waits for memory on one side, a stream of it on the other.

use super::executor::{Parts, run_of};
use crate::hq::client::error_chain;
use crate::peer::memory::{Arrival, MemoryLink};
use crate::vms::watch::Doing;
use agent_core::{Input, VmRun};
use hypervisor_glue::vms::{VmLaunch, Vms};
use provisioning_protocol::ids::VmName;
use provisioning_protocol::template::CpuModel;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Streams that wait to be carried to their QEMU.
const ARRIVALS_MAX: usize = 4;

/// Carries memory that arrives to the QEMU it is for, for as long as the agent runs.
pub(super) fn take_in(memory: &MemoryLink, vms: Arc<dyn Vms>) {
    let (out, mut arrivals) = mpsc::channel(ARRIVALS_MAX);
    memory.listen(&out);
    tokio::spawn(async move {
        // Held here, so that the listeners go on.
        let _out = out;
        while let Some(Arrival { vm, ticket, wire }) = arrivals.recv().await {
            let vms = vms.clone();
            tokio::spawn(async move {
                tracing::info!(%vm, "memory arrives");
                if let Err(err) = vms.fill(&vm, ticket, wire).await {
                    tracing::warn!(%vm, error = error_chain(&err), "memory not taken");
                }
            });
        }
    });
}

/// Loads a QEMU for a VM's memory, and says under which ticket.
pub(super) async fn receive(parts: Arc<Parts>, vm: VmName) {
    parts.memory.forget(&vm);
    let ticket = match parts.launch(&vm).await {
        Some(launch) => loaded(&parts, &launch).await,
        None => None,
    };
    parts.tell(Input::VmReceives { vm, ticket }).await;
}

async fn loaded(parts: &Parts, launch: &VmLaunch) -> Option<u64> {
    let vm = &launch.name;
    if launch.cpu == CpuModel::Host {
        // The two servers' processors may differ.
        return None;
    }
    let ticket = crate::site::random().ok()?;
    match parts.vms.receive(launch, ticket).await {
        Ok(()) => {
            parts.memory.await_memory(vm, ticket, launch.accel);
            Some(ticket)
        }
        Err(err) => {
            tracing::warn!(%vm, error = error_chain(&err), "no QEMU for a VM's memory");
            None
        }
    }
}

/// Sends a VM's memory away; in the end it is either there or still here.
pub(super) async fn hand(parts: Arc<Parts>, vm: VmName, ticket: u64, off: watch::Receiver<bool>) {
    // What QEMU says meanwhile means nothing.
    parts.watch.set(&vm, VmRun::Running, Doing::Leaving).await;
    let sent = send(&parts, &vm, ticket, off).await;
    let whole = match sent {
        Ok(whole) => whole,
        Err(error) => {
            tracing::warn!(%vm, error, "memory not handed over");
            false
        }
    };
    if whole {
        parts.hub.event("vm_handed_over", format!("{vm} has moved live: its memory is over"));
        parts.watch.set(&vm, VmRun::Stopped, Doing::Nothing).await;
    } else {
        parts.hub.event("vm_not_handed_over", format!("{vm} could not be moved live"));
        let run = run_of(&parts, &vm).await;
        parts.watch.set(&vm, run, Doing::Nothing).await;
    }
    parts.tell(Input::VmHanded { vm, ticket, whole }).await;
}

async fn send(
    parts: &Parts,
    vm: &VmName,
    ticket: u64,
    off: watch::Receiver<bool>,
) -> Result<bool, String> {
    let launch = parts.launch(vm).await.ok_or("its volumes are not set up on this server")?;
    let wire = parts.memory.dial(vm, ticket, launch.accel).await.map_err(|err| err.to_string())?;
    parts.vms.hand(vm, wire, off).await.map_err(|err| error_chain(&err))
}
