// SPDX-License-Identifier: Apache-2.0
//! The rest of a server: carries the core's orders out, each taking its time, and reports back.

use crate::drbd::Conn;
use crate::kernel::Promotion;
use crate::lan::Tap;
use crate::opts::{Mode, Mutation};
use crate::world::{Event, Helper, Node, Shell, World, slot};
use agent_core::{BootFacts, Config, Core, DesiredVm, Disk, Effect, Input, Tie, VmRun};
use agent_watchdog::keeper::{Action, Keeper, State};
use provisioning_protocol::ids::VmName;
use provisioning_protocol::peer::Path;
use std::sync::Arc;

/// Lease of the agent.
pub(crate) const LEASE_MS: u64 = 8_000;
/// By then a helper born in a pause has reached the agent.
const HELPER_MS: u64 = 300;
/// VMs go home after this; the real time is longer than a run.
pub(crate) const REBALANCE_MS: u64 = 20_000;
/// How long the hardware watchdog waits after the last pet.
const WATCHDOG_MS: u64 = 10_000;

impl World {
    fn later(&mut self, node: usize, low: u64, high: u64, what: Shell) {
        let delay = self.rng.range(low, high);
        self.later_at(node, delay, what);
    }

    pub(crate) fn later_at(&mut self, node: usize, delay: u64, what: Shell) {
        let agent = self.nodes[node].agent;
        self.at(delay, Event::Shell { node, agent, what });
    }

    pub fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Persist { token, state } => self.start_persist(node, token, state),
            Effect::SendPeer { body } => {
                let here = &mut self.nodes[node];
                here.seq += 1;
                let (boot, seq, body) = (here.boot, here.seq, Arc::from(body));
                for path in Path::BOTH {
                    self.send(node, path, boot, seq, &body);
                }
            }
            Effect::AskWitness { at, swap } => {
                self.ask_witness(node, at, swap.request_id, Some(swap));
            }
            Effect::ReadWitness { at, request_id } => self.ask_witness(node, at, request_id, None),
            Effect::AnswerHelper { id, code } => {
                let code = code.exit_code();
                self.later(node, 1, 30, Shell::AnswerHelper { helper: id, code });
            }
            Effect::Outdate => self.later(node, 10, 500, Shell::Outdate),
            Effect::Promote { vm } => {
                let vm = self.vm_index(&vm);
                self.nodes[node].promote_ticket[vm] += 1;
                let ticket = self.nodes[node].promote_ticket[vm];
                let until = self.now + 5_000;
                self.later(node, 20, 60, Shell::PromoteTry { vm, until, ticket });
            }
            Effect::Demote { vm } => {
                let vm = self.vm_index(&vm);
                self.nodes[node].promote_ticket[vm] += 1;
                self.later(node, 20, 60, Shell::Demote { vm });
            }
            Effect::StartVm { vm, resume } => {
                let vm = self.vm_index(&vm);
                self.later(node, 20, 800, Shell::Started { vm, resume });
            }
            Effect::StopVm { vm } => {
                let vm = self.vm_index(&vm);
                if self.mutated(Mutation::FalseStop) {
                    return self
                        .tell_vm(node, vm, |vm| Input::VmState { vm, state: VmRun::Stopped });
                }
                self.later(node, 500, 4_000, Shell::Stopped { vm });
            }
            Effect::PauseVm { vm } => {
                let vm = self.vm_index(&vm);
                if !self.mutated(Mutation::KeepRunning) && !self.mutated(Mutation::FalseRelease) {
                    self.later(node, 1, 20, Shell::Pause { vm });
                }
            }
            Effect::ResumeVm { vm } => {
                let vm = self.vm_index(&vm);
                self.later(node, 1, 20, Shell::Resume { vm });
            }
            Effect::Evict { vms } => {
                let vms: Vec<usize> = vms.iter().map(|vm| self.vm_index(vm)).collect();
                for vm in &vms {
                    self.nodes[node].promote_ticket[*vm] += 1;
                }
                self.stats.evictions += 1;
                let ordered_at = self.now;
                self.later(node, 100, 900, Shell::Evict { vms, ordered_at });
            }
            Effect::Reconnect => self.later(node, 10, 300, Shell::Reconnect),
            Effect::SwitchPath { path } => self.nodes[node].route = path,
            Effect::ArmWatchdog => {
                let can = self.nodes[node].can_arm;
                self.later(node, 5, 50, Shell::Armed(can));
            }
            Effect::DisarmWatchdog => self.later(node, 5, 50, Shell::Armed(false)),
            Effect::RenewLease => self.renew_lease(node),
            Effect::FencePeer { id } => self.fence_peer(node, id),
            Effect::SparePeer => self.spare_peer(node),
            Effect::PowerOnPeer => self.power_on_peer(node),
            Effect::Reset { .. } => {
                let after = self.rng.range(4_000, 20_000);
                self.power_off(node, Some(after));
            }
            Effect::Report { cause } => {
                self.stats.yields += u64::from(cause.code == "yielded");
                self.stats.pairs += u64::from(cause.code == "joined");
                self.stats.moves += u64::from(cause.code == "given");
            }
            Effect::ReceiveVm { vm } => self.receive_vm(node, &vm),
            Effect::PrepareVm { vm } | Effect::DiscardVm { vm } => self.discard_vm(node, &vm),
            Effect::HandVm { vm, ticket } => self.hand_vm(node, &vm, ticket),
            Effect::KeepVm { vm } => self.keep_vm(node, &vm),
            // Nobody orders it here.
            Effect::RestoreVolumes | Effect::GiveUpVolumes => {}
            Effect::TapDown { vm } => self.set_tap(node, self.vm_index(&vm), false),
            Effect::TapUp { vm } => self.set_tap(node, self.vm_index(&vm), true),
        }
    }

    fn start_persist(&mut self, node: usize, token: u64, state: Box<agent_core::DurableState>) {
        if let Some(landed) = self.nodes[node].dies_at_write.take() {
            if landed {
                self.store(node, *state);
            }
            return self.power_off(node, Some(10_000));
        }
        let slow = self.nodes[node].slow_disk;
        let (low, high) = if slow { (500, 4_000) } else { (2, 40) };
        if self.mutated(Mutation::SkipPersist) && self.rng.chance(300) {
            return self.later(node, 1, 5, Shell::Persisted { token, state: None });
        }
        let mut state = state;
        if self.mutated(Mutation::TieToBoth) && state.tie == Tie::Node(slot(1 - node)) {
            state.tie = Tie::Node(slot(node));
        }
        self.nodes[node].inflight = Some(state.clone());
        self.later(node, low, high, Shell::Persisted { token, state: Some(state) });
    }

    /// Something the shell was busy with is done.
    pub fn shell(&mut self, node: usize, what: Shell) {
        match what {
            Shell::Persisted { token, state } => {
                self.nodes[node].inflight = None;
                if let Some(state) = state {
                    self.store(node, *state);
                }
                self.feed(node, Input::Persisted { token });
            }
            Shell::AnswerHelper { helper, code: 255 } => self.helper_asks(node, helper),
            Shell::AnswerHelper { helper, code } => self.answer_helper(node, helper, code),
            Shell::PromoteTry { vm, until, ticket } => self.promote_try(node, vm, until, ticket),
            Shell::Demote { vm } => {
                self.nodes[node].vols[vm].primary = false;
                self.tell_vm(node, vm, |vm| Input::DemoteDone { vm, ok: true });
            }
            Shell::Started { vm, resume } => self.start_vm(node, vm, resume),
            Shell::Stopped { vm } => {
                // QEMU cannot end while a write of its guest has no answer.
                let busy = self.nodes[node].vols.get(vm).is_some_and(|vol| vol.waiting.is_some());
                if busy && self.nodes[node].runs[vm] != VmRun::Stopped {
                    return self.later(node, 50, 100, Shell::Stopped { vm });
                }
                if self.nodes[node].runs[vm] != VmRun::Stopped {
                    self.set_run(node, vm, VmRun::Stopped);
                }
            }
            // A stream under way ends first.
            Shell::Pause { vm } if self.nodes[node].hands[vm].is_some() => {
                self.later(node, 10, 30, Shell::Pause { vm });
            }
            Shell::Pause { vm } => {
                if self.nodes[node].runs[vm] == VmRun::Running {
                    self.set_run(node, vm, VmRun::Paused);
                }
            }
            Shell::Resume { vm } => {
                if self.nodes[node].runs[vm] == VmRun::Paused {
                    self.set_run(node, vm, VmRun::Running);
                }
            }
            Shell::Outdate => self.outdate(node),
            Shell::Evict { vms, ordered_at } => self.evict(node, vms, ordered_at),
            Shell::Reconnect => self.reconnect(node),
            Shell::Armed(armed) => {
                let (now, keeper) = (self.now, &mut self.nodes[node].keeper);
                let done = if armed { keeper.arm(now, LEASE_MS) } else { keeper.disarm(now) };
                let state = self.nodes[node].keeper.state();
                self.feed(node, Input::WatchdogArmed(done.is_ok() && state != State::Idle));
            }
            Shell::Receives { vm } => self.receives(node, vm),
            Shell::Streamed { vm, ticket } => self.streamed(node, vm, ticket),
            Shell::Handed { vm, ticket } => self.handed(node, vm, ticket),
            Shell::Kept { vm } => self.kept(node, vm),
            Shell::Bmc(work) => self.bmc_work(node, work),
            Shell::Unreachable { request_id } => {
                self.feed(node, Input::WitnessUnreachable { request_id });
            }
        }
    }

    pub(crate) fn tell_vm(&mut self, node: usize, vm: usize, input: impl FnOnce(VmName) -> Input) {
        let name = self.vms[vm].clone();
        self.feed(node, input(name));
    }

    pub(crate) fn set_run(&mut self, node: usize, vm: usize, run: VmRun) {
        self.nodes[node].runs[vm] = run;
        if run == VmRun::Running {
            self.memory[vm] += 1;
            self.check_vcpus(vm);
        }
        self.tell_vm(node, vm, |vm| Input::VmState { vm, state: run });
    }

    fn start_vm(&mut self, node: usize, vm: usize, resume: Option<u64>) {
        if self.nodes[node].runs[vm] != VmRun::Stopped {
            return;
        }
        if !self.nodes[node].vols[vm].primary {
            return self.tell_vm(node, vm, |vm| Input::VmState { vm, state: VmRun::Failed });
        }
        if self.homes[vm] != slot(node) {
            self.stats.takeovers += 1;
        }
        self.check_memory(node, vm, resume);
        self.nodes[node].first_io[vm] = true;
        self.nodes[node].taps[vm] = Tap::default();
        self.set_run(node, vm, VmRun::Running);
    }

    fn promote_try(&mut self, node: usize, vm: usize, until: u64, ticket: u32) {
        if self.nodes[node].promote_ticket[vm] != ticket || self.nodes[node].vols.is_empty() {
            return;
        }
        let waits = self.nodes[node].helpers.iter().any(|h| h.vm == vm && !h.primary);
        let outcome = if waits { Promotion::Asked } else { self.promote(node, vm) };
        if outcome == Promotion::Done {
            return self.tell_vm(node, vm, |vm| Input::PromoteDone { vm, ok: true });
        }
        if self.now >= until && outcome == Promotion::Refused {
            return self.tell_vm(node, vm, |vm| Input::PromoteDone { vm, ok: false });
        }
        self.later(node, 100, 201, Shell::PromoteTry { vm, until, ticket });
    }

    fn outdate(&mut self, node: usize) {
        for vm in 0..self.nodes[node].vols.len() {
            if !self.nodes[node].vols[vm].primary {
                self.disconnect(node, vm);
                let vol = &mut self.nodes[node].vols[vm];
                vol.disk = vol.disk.min(Disk::Outdated);
            }
        }
        self.feed(node, Input::OutdateDone { ok: true });
        self.tell_links();
    }

    /// The core waits for every helper it knows; one called since holds the eviction up.
    fn evict(&mut self, node: usize, vms: Vec<usize>, ordered_at: u64) {
        // After a pause the agent hears of helpers only now; the shell waits for those, too.
        let woke_at = self.nodes[node].woke_at;
        let known_at = |helper: &Helper| helper.born_at.max(woke_at + HELPER_MS);
        let mut waiting = self.nodes[node].helpers.iter().filter(|h| vms.contains(&h.vm));
        if waiting.clone().any(|helper| known_at(helper) < ordered_at) {
            return self.fail(format!("{} downs a volume with a helper outstanding", slot(node)));
        }
        if waiting.next().is_some() {
            return self.later(node, 20, 50, Shell::Evict { vms, ordered_at });
        }
        let ok = !self.rng.chance(20);
        if self.mutated(Mutation::FalseRelease) {
            return self.feed(node, Input::EvictDone { ok: true });
        }
        for vm in vms.into_iter().filter(|_| ok) {
            self.nodes[node].runs[vm] = VmRun::Stopped;
            if self.nodes[node].vols.is_empty() {
                continue;
            }
            let now = self.now;
            let vol = &mut self.nodes[node].vols[vm];
            let was = (vol.disk, vol.peer_outdated, vol.primary);
            vol.power_loss();
            // Taken down and attached in order; the activity log covers the cut-off write.
            vol.crashed |= was.2;
            vol.conn = Conn::Connecting(now);
        }
        self.feed(node, Input::EvictDone { ok });
        self.tell_links();
    }

    fn reconnect(&mut self, node: usize) {
        for vm in 0..self.nodes[node].vols.len() {
            if !self.nodes[node].vols[vm].connected() {
                self.disconnect(node, vm);
                self.nodes[node].vols[vm].conn = Conn::Connecting(self.now);
            }
        }
        self.tell_links();
    }

    /// Power gone: volatile state is lost; a write of the state under way may or may not have
    /// reached the disk.
    pub fn power_off(&mut self, node: usize, back_after: Option<u64>) {
        if !self.nodes[node].up {
            return;
        }
        self.note(|_| format!("** {} loses power", slot(node)));
        let landed = self.rng.coin();
        if let Some(state) = self.nodes[node].inflight.take().filter(|_| landed) {
            self.store(node, *state);
        }
        let here = &mut self.nodes[node];
        here.up = false;
        here.hung = false;
        here.power += 1;
        here.agent += 1;
        here.core = None;
        here.backlog = None;
        here.told_link = None;
        here.helpers.clear();
        here.route = Path::Cable;
        for run in &mut here.runs {
            *run = VmRun::Stopped;
        }
        for vol in &mut here.vols {
            vol.power_loss();
        }
        let power = here.power;
        self.forget_streams(node);
        if let Some(after) = back_after {
            self.at(after, Event::Boot { node, power });
        }
    }

    pub fn power_on(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.note(|_| format!("** {} boots", slot(node)));
        let now = self.now;
        let here = &mut self.nodes[node];
        here.up = true;
        here.bmc.supply = crate::bmc::Supply::On;
        here.keeper = Keeper::new(State::Idle, WATCHDOG_MS);
        here.petted_at = now;
        for vol in &mut here.vols {
            vol.conn = Conn::Connecting(now);
        }
        self.start_agent(node);
    }

    /// The agent starts: on a booted server, or again under running VMs.
    pub fn start_agent(&mut self, node: usize) {
        let boot = self.rng.next();
        let zero = self.now - self.rng.range(0, self.now.min(5_000) + 1);
        let stale = self.mutated(Mutation::StaleState) && self.rng.coin();
        let here = &mut self.nodes[node];
        here.agent += 1;
        here.boot = boot;
        here.seq = 0;
        here.clock_zero = zero;
        here.told_link = None;
        let mut config = Config::new(slot(node), boot);
        if self.opts.mutation == Some(Mutation::IgnoreFence) {
            config.fence_ms = 0;
        }
        config.rebalance_ms = REBALANCE_MS;
        if self.opts.mode == Mode::Liveness {
            // With so many faults the guard would keep the pair from healing, as it should.
            config.flap_count = usize::MAX;
        }
        here.core = Some(Core::new(config));
        let durable = if stale { here.older_disk.clone() } else { here.disk.clone() };
        let vms = self.found_vms(node);
        let path = self.nodes[node].route;
        self.note(|_| format!("** {} agent starts", slot(node)));
        self.feed(node, Input::Boot(Box::new(BootFacts { durable, vms, path })));
        let list = self.desired();
        self.feed(node, Input::Desired(list));
        self.feed(node, Input::LocalWitness(self.local.set[node]));
        self.tell_bmc(node);
        let placement = self.nodes[node].placement;
        self.feed(node, Input::Placement(placement));
        self.tell_ready(node);
        self.tell_links();
        let ids: Vec<u64> = self.nodes[node].helpers.iter().map(|helper| helper.id).collect();
        for id in ids {
            self.helper_asks(node, id);
        }
        let agent = self.nodes[node].agent;
        self.at(100, Event::Tick { node, agent });
    }

    fn found_vms(&self, node: usize) -> Vec<(VmName, VmRun)> {
        let here = &self.nodes[node];
        let primary = |vm: usize| here.vols.get(vm).is_some_and(|vol| vol.primary);
        let found = |vm: &usize| here.runs[*vm] != VmRun::Stopped || primary(*vm);
        let all = (0..self.vms.len()).filter(found);
        all.map(|vm| (self.vms[vm].clone(), here.runs[vm])).collect()
    }

    fn desired(&self) -> Vec<DesiredVm> {
        let vms = self.vms.iter().zip(&self.homes);
        vms.map(|(name, home)| DesiredVm { name: name.clone(), home: *home, weight: 1 }).collect()
    }

    pub fn tell_ready(&mut self, node: usize) {
        for vm in 0..self.nodes[node].vols.len() {
            self.tell_vm(node, vm, |vm| Input::VolumesReady { vm, ready: true });
        }
    }

    /// Agent killed: VMs, helpers and kernel go on.
    pub fn kill_agent(&mut self, node: usize) {
        let landed = self.rng.coin();
        if let Some(state) = self.nodes[node].inflight.take().filter(|_| landed) {
            self.store(node, *state);
        }
        self.nodes[node].agent += 1;
        self.nodes[node].core = None;
        self.nodes[node].backlog = None;
        self.forget_streams(node);
        self.note(|_| format!("** {} agent killed", slot(node)));
    }

    /// The agent vouches for its server.
    pub fn renew_lease(&mut self, node: usize) {
        // Refused if it is not armed or too late.
        let _ = self.nodes[node].keeper.renew(self.now);
    }

    /// The keeper pets the hardware, which resets a server that is no longer vouched for or
    /// hangs.
    pub fn watchdog(&mut self, node: usize) {
        let now = self.now;
        let here: &mut Node = &mut self.nodes[node];
        if here.alive() && here.keeper.step(now) == Action::Pet {
            here.petted_at = now;
        }
        let armed = here.keeper.state() != State::Idle;
        if here.up && armed && now >= here.petted_at + WATCHDOG_MS {
            self.note(|_| format!("** {} reset by its watchdog", slot(node)));
            let after = self.rng.range(4_000, 20_000);
            self.power_off(node, Some(after));
        }
    }
}
