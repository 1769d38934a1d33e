// SPDX-License-Identifier: Apache-2.0
//! Carries out the core's effects: in the order given, none holding up the next.

use super::engine::to_slot;
use super::evict::{evict, rejoin};
use super::helper::Helpers;
use super::lane::Lane;
use super::live;
use super::volumes::VolumeHands;
use super::watchdog::{Watchdog, Wish};
use crate::bmc::PowerPort;
use crate::durable::slots::Slots;
use crate::hq::client::error_chain;
use crate::peer::link::PeerLink;
use crate::peer::memory::MemoryLink;
use crate::status::{Concern, Hub};
use crate::vms::launch::launch;
use crate::vms::watch::{Doing, Watch};
use agent_core::{DurableState, Effect, Input, VmRun, WitnessAt};
use async_trait::async_trait;
use hypervisor_glue::network::Network;
use hypervisor_glue::vms::{Accel, VmLaunch, VmState, Vms};
use provisioning_protocol::ids::{NodeSlot, SiteName, VmName};
use provisioning_protocol::peer::Path;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

/// A guest that has not shut down by then is killed.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// A reset waits so long for its cause to be on the disk.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A VM that goes on on the other server stands still meanwhile: what can wait waits for so long.
const TIDY_AFTER: Duration = Duration::from_secs(2);
/// A tap that cannot be switched is tried so often, with this pause.
const TAP_TRIES: u32 = 5;
const TAP_PAUSE: Duration = Duration::from_millis(500);
const PERSIST_RETRY: Duration = Duration::from_millis(500);

/// The witnesses, real or not.
#[async_trait]
pub trait WitnessPort: Send + Sync {
    /// Swaps; `None` if no answer came in time.
    async fn swap(&self, at: WitnessAt, swap: &WitnessSwap) -> Option<WitnessAnswer>;
    /// Reads the record; `None` if no answer came in time.
    async fn record(&self, at: WitnessAt) -> Option<WitnessRecord>;
}

/// What the effects act on.
pub struct Parts {
    /// The site.
    pub site: SiteName,
    /// This server's place.
    pub slot: NodeSlot,
    /// Durable state.
    pub slots: Slots,
    /// The peer.
    pub link: PeerLink,
    /// The witness.
    pub witness: Arc<dyn WitnessPort>,
    /// The other server's power.
    pub power: Arc<dyn PowerPort>,
    /// Fence helpers.
    pub helpers: Helpers,
    /// The watchdog keeper.
    pub watchdog: Watchdog,
    /// Replicated volumes.
    pub hands: VolumeHands,
    /// VMs.
    pub vms: Arc<dyn Vms>,
    /// The way their memory goes in live moves.
    pub memory: MemoryLink,
    /// What VMs do.
    pub watch: Watch,
    /// Network.
    pub network: Arc<dyn Network>,
    /// How guests run, once probed.
    pub accel: watch::Receiver<Option<Accel>>,
    /// Status.
    pub hub: Arc<Hub>,
    /// The core.
    pub inputs: mpsc::Sender<Input>,
    /// Makes the replication monitor look.
    pub look: Arc<Notify>,
    /// Resets the server.
    pub reset: fn(),
}

/// The executor.
pub struct Executor {
    parts: Arc<Parts>,
    slots: Arc<Mutex<Slots>>,
    seq: u64,
    persist: Lane,
    witness: Lane,
    /// A silent HQ must not hold up a claim on site, nor the other way round.
    local_witness: Lane,
    volumes: Lane,
    taps: Lane,
    path: Lane,
    vms: BTreeMap<VmName, Lane>,
    /// QEMUs are loaded beside everything else: a promotion does not wait for it.
    standby: BTreeMap<VmName, Lane>,
    /// Calls the stream of a VM's memory off.
    offs: BTreeMap<VmName, watch::Sender<bool>>,
    /// Work on the other server's BMC, one thing at a time.
    fence: JoinSet<()>,
}

impl Executor {
    /// Starts the lanes.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let placeholder = Slots::unopened();
        let mut parts = parts;
        let slots = std::mem::replace(&mut parts.slots, placeholder);
        Self {
            parts: Arc::new(parts),
            slots: Arc::new(Mutex::new(slots)),
            seq: 0,
            persist: Lane::new(),
            witness: Lane::new(),
            local_witness: Lane::new(),
            volumes: Lane::new(),
            taps: Lane::new(),
            path: Lane::new(),
            vms: BTreeMap::new(),
            standby: BTreeMap::new(),
            offs: BTreeMap::new(),
            fence: JoinSet::new(),
        }
    }

    fn witness_lane(&self, at: WitnessAt) -> &Lane {
        match at {
            WitnessAt::Hq => &self.witness,
            WitnessAt::Local => &self.local_witness,
        }
    }

    fn standby_lane(&mut self, vm: &VmName) -> &Lane {
        self.standby.entry(vm.clone()).or_default()
    }

    fn lane(&mut self, vm: &VmName) -> &Lane {
        self.vms.entry(vm.clone()).or_default()
    }

    /// The newest order counts.
    fn touch_power(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.fence.abort_all();
        while self.fence.try_join_next().is_some() {}
        self.fence.spawn(work);
    }

    /// Takes one order; returns at once.
    pub fn carry_out(&mut self, effect: Effect) {
        let parts = self.parts.clone();
        match effect {
            Effect::Persist { token, state } => {
                self.persist.push(persist(parts, self.slots.clone(), token, *state));
            }
            Effect::SendPeer { body } => {
                self.seq += 1;
                parts.link.send(self.seq, *body);
            }
            Effect::AskWitness { at, swap } => self.witness_lane(at).push(ask(parts, at, swap)),
            Effect::ReadWitness { at, request_id } => {
                self.witness_lane(at).push(read(parts, at, request_id));
            }
            Effect::AnswerHelper { id, code } => parts.helpers.answer(id, code),
            Effect::Outdate => self.volumes.push(async move {
                let ok = parts.hands.outdate().await;
                parts.tell(Input::OutdateDone { ok }).await;
            }),
            Effect::Reconnect => self.volumes.push(async move {
                parts.hands.reconnect().await;
                parts.look.notify_one();
            }),
            Effect::Evict { vms } => self.volumes.push(async move {
                let (ok, free) = evict(&parts.hands, &parts.vms, &vms).await;
                parts.hub.event("evicted", evicted(&vms, ok));
                for vm in vms.iter().filter(|_| ok) {
                    parts.watch.set(vm, VmRun::Stopped, Doing::Nothing).await;
                }
                parts.tell(Input::EvictDone { ok }).await;
                for spec in &free {
                    rejoin(&parts.hands, spec).await;
                }
                parts.look.notify_one();
            }),
            Effect::RestoreVolumes => self.volumes.push(async move {
                let ok = parts.hands.keeper.restore().await;
                parts.look.notify_one();
                parts.tell(Input::VolumesRestored { ok }).await;
            }),
            Effect::GiveUpVolumes => self.volumes.push(async move {
                let ok = parts.hands.keeper.give_up().await;
                if ok {
                    parts.helpers.settled();
                }
                parts.look.notify_one();
                parts.tell(Input::VolumesGivenUp { ok }).await;
            }),
            Effect::Promote { vm } => self.lane(&vm).push(promote(parts, vm)),
            Effect::PrepareVm { vm } => self.standby_lane(&vm).push(prepare(parts, vm)),
            Effect::ReceiveVm { vm } => self.standby_lane(&vm).push(live::receive(parts, vm)),
            Effect::HandVm { vm, ticket } => {
                let (off, called_off) = watch::channel(false);
                self.offs.insert(vm.clone(), off);
                self.lane(&vm).push(live::hand(parts, vm, ticket, called_off));
            }
            Effect::KeepVm { vm } => {
                if let Some(off) = self.offs.get(&vm) {
                    off.send_replace(true);
                }
            }
            Effect::DiscardVm { vm } => self.standby_lane(&vm).push(discard(parts, vm)),
            Effect::Demote { vm } => self.lane(&vm).push(async move {
                let ok = parts.hands.demote(&vm).await;
                if !ok {
                    parts.look.notify_one();
                }
                parts.tell(Input::DemoteDone { vm: vm.clone(), ok }).await;
                tokio::spawn(tidy(parts, vm));
            }),
            Effect::StartVm { vm, resume } => {
                let loaded = self.standby_lane(&vm).drained();
                self.lane(&vm).push(async move {
                    // Else what was ordered to be loaded before the start could be loaded after it.
                    loaded.await;
                    start(parts, vm, resume).await;
                });
            }
            Effect::StopVm { vm } => self.lane(&vm).push(stop(parts, vm)),
            Effect::TapDown { vm } => self.taps.push(tap(parts, vm, false)),
            Effect::TapUp { vm } => self.taps.push(tap(parts, vm, true)),
            Effect::PauseVm { vm } => self.lane(&vm).push(pause(parts, vm)),
            Effect::ResumeVm { vm } => self.lane(&vm).push(resume(parts, vm)),
            Effect::SwitchPath { path } => self.path.push(switch(parts, path)),
            Effect::ArmWatchdog => parts.watchdog.ask(Wish::Arm),
            Effect::DisarmWatchdog => parts.watchdog.ask(Wish::Disarm),
            Effect::FencePeer { id } => self.touch_power(async move {
                let off = parts.power.off().await;
                parts.tell(Input::BmcAnswered { id, off }).await;
            }),
            Effect::PowerOnPeer => self.touch_power(async move { parts.power.on().await }),
            Effect::SparePeer => self.fence.abort_all(),
            Effect::RenewLease => parts.watchdog.ask(Wish::Renew),
            Effect::Reset { cause } => {
                parts.hub.event("reset", cause);
                if !parts.hub.settle(LAST_WORDS) {
                    tracing::warn!("the cause of this reset is not on the disk");
                }
                (parts.reset)();
            }
            Effect::Report { cause } => parts.hub.event(event_code(cause.code), cause.text),
        }
    }
}

/// What became of an eviction, for the flight recorder.
fn evicted(vms: &[VmName], ok: bool) -> String {
    let names: Vec<&str> = vms.iter().map(VmName::as_str).collect();
    let outcome = if ok { "gone from this server" } else { "not all gone: the removal hangs" };
    format!("The other server goes on with {}; here: {outcome}.", names.join(", "))
}

/// The core's words for its states, as events are called.
fn event_code(code: &str) -> &str {
    match code {
        "pair" => "paired",
        "link_lost" => "peer_lost",
        other => other,
    }
}

impl Parts {
    pub(super) async fn tell(&self, input: Input) {
        drop(self.inputs.send(input).await);
    }

    /// How the VM is started here; `None` before its volumes are set up. Waits until it is known
    /// how guests run.
    pub(super) async fn launch(&self, vm: &VmName) -> Option<VmLaunch> {
        let entry = self.hands.registry.get(vm)?;
        let mut accel = self.accel.clone();
        let accel = accel.wait_for(Option::is_some).await.ok().and_then(|accel| *accel);
        Some(launch(&entry, &self.site, accel.unwrap_or(Accel::Tcg)))
    }
}

async fn persist(parts: Arc<Parts>, slots: Arc<Mutex<Slots>>, token: u64, state: DurableState) {
    let bytes = to_slot(&state);
    loop {
        let (slots, bytes) = (slots.clone(), bytes.clone());
        let stored = tokio::task::spawn_blocking(move || {
            slots.lock().unwrap_or_else(PoisonError::into_inner).store(&bytes)
        });
        match stored.await {
            Ok(Ok(())) => break,
            Ok(Err(err)) => {
                let text = error_chain(&err);
                tracing::error!(error = text, "pair state not stored");
                let words = format!("The state partition cannot be written: {text}");
                parts.hub.problem(Concern::State, "pair", Some(words));
            }
            Err(error) => tracing::error!(%error, "pair state not stored"),
        }
        tokio::time::sleep(PERSIST_RETRY).await;
    }
    parts.hub.problem(Concern::State, "pair", None);
    tracing::info!(token, epoch = state.epoch.0, solo = state.solo, "pair state stored");
    parts.tell(Input::Persisted { token }).await;
}

async fn ask(parts: Arc<Parts>, at: WitnessAt, swap: WitnessSwap) {
    let request_id = swap.request_id;
    let input = match parts.witness.swap(at, &swap).await {
        Some(answer) => {
            tracing::info!(granted = answer.granted, reason = answer.reason, "witness answered");
            Input::WitnessAnswered(answer)
        }
        None => Input::WitnessUnreachable { request_id },
    };
    parts.tell(input).await;
}

async fn read(parts: Arc<Parts>, at: WitnessAt, request_id: u64) {
    let input = match parts.witness.record(at).await {
        Some(record) => Input::WitnessAnswered(WitnessAnswer {
            request_id,
            granted: false,
            record,
            reason: String::new(),
        }),
        None => Input::WitnessUnreachable { request_id },
    };
    parts.tell(input).await;
}

async fn promote(parts: Arc<Parts>, vm: VmName) {
    let ok = parts.hands.promote(&vm).await;
    if ok {
        parts.hub.event("promoted", format!("the volumes of {vm} may be written here"));
    } else {
        parts.look.notify_one();
    }
    parts.tell(Input::PromoteDone { vm, ok }).await;
}

/// A failure here shows at the start, which tries again.
async fn prepare(parts: Arc<Parts>, vm: VmName) {
    parts.memory.forget(&vm);
    let Some(launch) = parts.launch(&vm).await else { return };
    if let Err(err) = parts.vms.prepare(&launch).await {
        tracing::warn!(%vm, error = error_chain(&err), "VM not prepared");
    }
}

async fn discard(parts: Arc<Parts>, vm: VmName) {
    parts.memory.forget(&vm);
    if let Err(err) = parts.vms.discard(&vm).await {
        tracing::warn!(%vm, error = error_chain(&err), "prepared VM not discarded");
    }
}

/// Removes the taps of a VM that has left, unless it is back.
async fn tidy(parts: Arc<Parts>, vm: VmName) {
    tokio::time::sleep(TIDY_AFTER).await;
    if let Err(err) = parts.vms.tidy(&vm).await {
        tracing::warn!(%vm, error = error_chain(&err), "taps left behind");
    }
}

async fn start(parts: Arc<Parts>, vm: VmName, resume: Option<u64>) {
    let object = vm.as_str();
    // From now on its vCPUs may run.
    parts.watch.set(&vm, VmRun::Running, Doing::Starting).await;
    let result = match parts.launch(&vm).await {
        Some(launch) => parts.vms.start(&launch, resume).await.map_err(|err| error_chain(&err)),
        None => Err("its volumes are not set up on this server".to_owned()),
    };
    match result {
        Ok(running) => {
            parts.hub.event("vm_started", format!("{vm} started (process {})", running.pid));
            parts.hub.problem(Concern::Vm, object, None);
            parts.watch.set(&vm, VmRun::Running, Doing::Nothing).await;
        }
        Err(text) => {
            tracing::error!(vm = object, error = text, "VM not started");
            parts.hub.problem(
                Concern::Vm,
                object,
                Some(format!("VM {vm} cannot be started: {text}")),
            );
            let run = run_of(&parts, &vm).await;
            parts.watch.set(&vm, run, Doing::Nothing).await;
        }
    }
}

/// After a failure: what there is. Not knowing counts as running; the watch will see.
pub(super) async fn run_of(parts: &Parts, vm: &VmName) -> VmRun {
    match parts.vms.state(vm).await {
        Ok(VmState::Absent | VmState::Prepared) => VmRun::Failed,
        Ok(VmState::Stopped(_)) => VmRun::Paused,
        Ok(VmState::Running | VmState::Silent) | Err(_) => VmRun::Running,
    }
}

async fn stop(parts: Arc<Parts>, vm: VmName) {
    match parts.vms.stop(&vm, STOP_LIMIT).await {
        Ok(outcome) => {
            parts.hub.event("vm_stopped", format!("{vm} stopped ({outcome:?})"));
            parts.watch.set(&vm, VmRun::Stopped, Doing::Nothing).await;
        }
        Err(err) => {
            tracing::error!(%vm, error = error_chain(&err), "VM not stopped, killing it");
            match parts.vms.kill(&vm).await {
                Ok(()) => parts.watch.set(&vm, VmRun::Stopped, Doing::Nothing).await,
                // The core must not believe that it is gone.
                Err(err) => tracing::error!(%vm, error = error_chain(&err), "VM not killed"),
            }
        }
    }
}

/// The core gives this order once.
async fn tap(parts: Arc<Parts>, vm: VmName, up: bool) {
    for _ in 0..TAP_TRIES {
        let Err(err) = parts.vms.set_link(&vm, up).await else { return };
        tracing::warn!(%vm, up, error = error_chain(&err), "VM link not changed");
        tokio::time::sleep(TAP_PAUSE).await;
    }
}

async fn pause(parts: Arc<Parts>, vm: VmName) {
    match parts.vms.pause(&vm).await {
        Ok(()) => parts.watch.set(&vm, VmRun::Paused, Doing::Nothing).await,
        Err(err) => tracing::warn!(%vm, error = error_chain(&err), "VM not paused"),
    }
}

async fn resume(parts: Arc<Parts>, vm: VmName) {
    match parts.vms.resume(&vm).await {
        Ok(()) => parts.watch.set(&vm, VmRun::Running, Doing::Nothing).await,
        Err(err) => tracing::warn!(%vm, error = error_chain(&err), "VM not resumed"),
    }
}

async fn switch(parts: Arc<Parts>, path: Path) {
    match parts.network.route_replication(parts.slot, path).await {
        Ok(()) => tracing::info!(?path, "replication path switched"),
        Err(err) => tracing::error!(?path, error = error_chain(&err), "path not switched"),
    }
}
