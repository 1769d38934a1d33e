// SPDX-License-Identifier: Apache-2.0
//! The rest of a server: carries the core's orders out and reports back. What only the server
//! itself can see happens in a fixed order; what others can come between waits for the checker.

use crate::kernel::Promotion;
use crate::rules::{LEASE_MS, Mutation, WATCHDOG_MS, config};
use crate::site::{Event, Node, ROUND_MS, Site, TURNS, Work, slot, vm_name};
use agent_core::{BootFacts, Core, DesiredVm, Disk, DurableState, Effect, Input, VmRun};
use agent_watchdog::keeper::{Action, Keeper, State};
use provisioning_protocol::ids::{NodeSlot, VmName};
use provisioning_protocol::peer::{Path, PeerBody};
use std::sync::Arc;
use tests_sim::drbd::Conn;

/// Datagrams of one round, at most: a late one counts as a sign of life only for so long.
const SEQ_PER_ROUND: u64 = 4;
/// From a reset to the next start, in rounds.
const REBOOT_ROUNDS: u32 = 8;
/// A promotion is tried for so long.
const PROMOTE_MS: u64 = 5_000;

impl Site {
    pub fn carry_out(&mut self, node: usize, effect: Effect) {
        if self.trace.is_some() && !often(&effect) {
            self.note(|_| format!("{} -> {effect:?}", slot(node)));
        }
        let agent = self.nodes[node].agent;
        match effect {
            Effect::Persist { token, state } => self.start_persist(node, token, state),
            Effect::SendPeer { body } => self.send(node, *body),
            Effect::AskWitness { at, swap } => self.ask(node, at, swap),
            Effect::ReadWitness { at, request_id } => {
                let from = node;
                self.later(1, Event::Read { from, at, agent, request_id });
            }
            Effect::AnswerHelper { id, code } => {
                let code = code.exit_code();
                self.pending.push(Event::HelperAnswer { node, agent, id, code });
            }
            Effect::Outdate => self.own(node, 1, Work::Outdate),
            Effect::Promote { .. } => {
                self.nodes[node].ticket += 1;
                let ticket = self.nodes[node].ticket;
                let until = self.now() + PROMOTE_MS;
                self.own(node, 1, Work::Promote { until, ticket });
            }
            Effect::Demote { .. } => {
                self.nodes[node].ticket += 1;
                self.own(node, 1, Work::Demote);
            }
            Effect::StartVm { .. } => self.own(node, 1, Work::Start),
            Effect::StopVm { .. } => self.own(node, 2, Work::Stop),
            Effect::PauseVm { .. } => {
                if !self.mutated(Mutation::KeepRunning) {
                    self.own(node, 0, Work::Pause);
                }
            }
            Effect::ResumeVm { .. } => self.own(node, 0, Work::Resume),
            Effect::Evict { .. } => {
                self.nodes[node].ticket += 1;
                self.own(node, 1, Work::Evict);
            }
            Effect::Reconnect => {
                if !self.mutated(Mutation::NeverReconnect) {
                    self.own(node, 1, Work::Reconnect);
                }
            }
            Effect::SwitchPath { path } => self.nodes[node].route = path,
            Effect::ArmWatchdog => self.own(node, 0, Work::Armed(true)),
            Effect::DisarmWatchdog => self.own(node, 0, Work::Armed(false)),
            Effect::RenewLease => self.renew_lease(node),
            Effect::Reset { .. } => self.own(node, 0, Work::Reset),
            Effect::Report { cause } => self.turn(cause.code),
            // No server of the model has a BMC; the simulator's have.
            Effect::FencePeer { .. } | Effect::SparePeer | Effect::PowerOnPeer => {}
            // Nobody orders it here.
            Effect::RestoreVolumes | Effect::GiveUpVolumes => {}
            Effect::TapDown { .. }
            | Effect::TapUp { .. }
            | Effect::PrepareVm { .. }
            | Effect::DiscardVm { .. } => {}
            // Nobody orders a move here; the simulator does.
            Effect::ReceiveVm { .. } | Effect::HandVm { .. } | Effect::KeepVm { .. } => {}
        }
    }

    /// Keeps in mind that this was reached.
    pub fn turn(&mut self, name: &str) {
        if let Some(turn) = TURNS.iter().position(|turn| *turn == name) {
            self.turns |= 1 << turn;
        }
    }

    fn start_persist(&mut self, node: usize, token: u64, state: Box<DurableState>) {
        let mut state = (!self.mutated(Mutation::SkipPersist)).then_some(state);
        if self.mutated(Mutation::BelieveAtOnce) {
            state.iter_mut().for_each(|state| self.believe(state));
        }
        let agent = self.nodes[node].agent;
        self.pending.push(Event::Persisted { node, agent, token, state });
    }

    /// The same words again change nothing but timers: they arrive at once. News is on its way
    /// until the checker says.
    fn send(&mut self, node: usize, body: PeerBody) {
        let seq = (self.nodes[node].seq + 1).max(u64::from(self.round) * SEQ_PER_ROUND);
        let here = &mut self.nodes[node];
        here.seq = seq;
        let boot = here.boot;
        let body = match &here.said {
            Some((_, said)) if **said == body => Arc::clone(said),
            _ => Arc::new(body),
        };
        let known = here.said.replace((boot, Arc::clone(&body)));
        let to = 1 - node;
        let on_its_way =
            |event: &Event| matches!(event, Event::Message { to: it, .. } if *it == to);
        let news = known.is_none_or(|known| known != (boot, Arc::clone(&body)));
        let paths = [0, 1].map(|path| self.open[path][node]);
        if !paths.contains(&true) {
            return;
        }
        let message = Event::Message { to, paths, boot, seq, body };
        if news || self.pending.iter().any(on_its_way) {
            self.pending.push(message);
        } else {
            self.soon.push_back(message);
        }
    }

    /// A server's own work is done.
    pub fn work(&mut self, node: usize, work: Work) {
        let vm = vm_name();
        match work {
            Work::HelperAsks(id) => {
                let asked = self.nodes[node].helpers.iter().find(|helper| helper.id == id);
                if let Some(primary) = asked.map(|helper| helper.primary) {
                    self.feed(node, Input::HelperAsked { id, vm, primary });
                }
            }
            Work::Promote { until, ticket } => self.promote_try(node, until, ticket),
            Work::Demote => {
                if let Some(vol) = &mut self.nodes[node].vol {
                    vol.primary = false;
                }
                self.feed(node, Input::DemoteDone { vm, ok: true });
            }
            Work::Start => self.start_vm(node),
            Work::Stop => self.set_run(node, VmRun::Stopped),
            Work::Pause if self.nodes[node].run == VmRun::Running => {
                self.set_run(node, VmRun::Paused);
            }
            Work::Resume if self.nodes[node].run == VmRun::Paused => {
                self.set_run(node, VmRun::Running);
            }
            Work::Pause | Work::Resume => {}
            Work::Outdate => self.outdate(node),
            Work::Evict => self.evict(node),
            Work::Reconnect => self.reconnect(node),
            Work::Armed(armed) => {
                let now = self.now();
                let keeper = &mut self.nodes[node].keeper;
                let done = if armed { keeper.arm(now, LEASE_MS) } else { keeper.disarm(now) };
                let state = keeper.state();
                self.feed(node, Input::WatchdogArmed(done.is_ok() && state != State::Idle));
            }
            Work::Reset => self.power_off(node, false, Some(REBOOT_ROUNDS)),
        }
    }

    fn set_run(&mut self, node: usize, run: VmRun) {
        if self.nodes[node].run == run {
            return;
        }
        self.nodes[node].run = run;
        self.check_vcpus();
        self.feed(node, Input::VmState { vm: vm_name(), state: run });
    }

    fn start_vm(&mut self, node: usize) {
        if self.nodes[node].run != VmRun::Stopped {
            return;
        }
        if !self.nodes[node].vol.as_ref().is_some_and(|vol| vol.primary) {
            return self.feed(node, Input::VmState { vm: vm_name(), state: VmRun::Failed });
        }
        self.nodes[node].first_io = true;
        self.set_run(node, VmRun::Running);
    }

    fn promote_try(&mut self, node: usize, until: u64, ticket: u32) {
        if self.nodes[node].ticket != ticket || self.nodes[node].vol.is_none() {
            return;
        }
        let waits = self.nodes[node].helpers.iter().any(|helper| !helper.primary);
        let outcome = if waits { Promotion::Asked } else { self.promote(node) };
        let vm = vm_name();
        match outcome {
            Promotion::Done => self.feed(node, Input::PromoteDone { vm, ok: true }),
            Promotion::Refused if self.now() >= until => {
                self.feed(node, Input::PromoteDone { vm, ok: false });
            }
            _ => self.own(node, 1, Work::Promote { until, ticket }),
        }
    }

    fn outdate(&mut self, node: usize) {
        let primary = self.nodes[node].vol.as_ref().is_none_or(|vol| vol.primary);
        if !primary {
            self.disconnect(node);
            if let Some(vol) = &mut self.nodes[node].vol {
                vol.disk = vol.disk.min(Disk::Outdated);
            }
        }
        self.feed(node, Input::OutdateDone { ok: true });
        self.tell_links();
    }

    /// A helper called since the order holds the eviction up.
    fn evict(&mut self, node: usize) {
        if !self.nodes[node].helpers.is_empty() {
            return self.own(node, 1, Work::Evict);
        }
        if self.mutated(Mutation::ResumeBeforeDetach) {
            self.ack_waiting(node);
        }
        let now = self.now();
        let here = &mut self.nodes[node];
        here.run = VmRun::Stopped;
        if let Some(vol) = &mut here.vol {
            vol.power_loss();
            vol.conn = Conn::Connecting(now);
        }
        self.feed(node, Input::EvictDone { ok: true });
        self.tell_links();
    }

    fn reconnect(&mut self, node: usize) {
        if self.nodes[node].vol.is_some() && !self.nodes[node].connected() {
            self.disconnect(node);
            let now = self.now();
            if let Some(vol) = &mut self.nodes[node].vol {
                vol.conn = Conn::Connecting(now);
            }
        }
        self.tell_links();
    }

    /// What was under way on a server whose agent is gone; a write of the state may or may not
    /// have reached the disk.
    fn lose_agent(&mut self, node: usize, landed: bool) {
        let mut inflight = None;
        self.pending.retain(|event| match event {
            Event::Persisted { node: it, state, .. } if *it == node => {
                inflight.clone_from(state);
                false
            }
            Event::HelperAnswer { node: it, .. } | Event::Answer { to: it, .. } => *it != node,
            _ => true,
        });
        let mine = |event: &Event| match event {
            Event::Own { node: it, .. } | Event::Persisted { node: it, .. } => *it == node,
            Event::Answer { to, .. } | Event::Unreachable { to, .. } => *to == node,
            Event::Read { from, .. } => *from == node,
            _ => false,
        };
        self.later.retain(|(_, event)| !mine(event));
        self.soon.retain(|event| !mine(event));
        if let Some(state) = inflight.filter(|_| landed) {
            self.store(node, *state);
        }
        let here = &mut self.nodes[node];
        here.agent += 1;
        here.core = None;
        here.told_link = None;
        here.said = None;
    }

    /// Power gone: volatile state is lost.
    pub fn power_off(&mut self, node: usize, landed: bool, back: Option<u32>) {
        if !self.nodes[node].up {
            return;
        }
        self.note(|_| format!("** {} loses power", slot(node)));
        self.lose_agent(node, landed);
        let here = &mut self.nodes[node];
        here.up = false;
        here.power += 1;
        here.helpers.clear();
        here.route = Path::Cable;
        here.run = VmRun::Stopped;
        here.keeper = Keeper::new(State::Idle, WATCHDOG_MS);
        if let Some(vol) = &mut here.vol {
            vol.power_loss();
        }
        let power = here.power;
        if let Some(rounds) = back {
            self.later(rounds, Event::PowerOn { node, power });
        }
    }

    pub fn power_on(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.note(|_| format!("** {} boots", slot(node)));
        let now = self.now();
        let here = &mut self.nodes[node];
        here.up = true;
        here.petted_at = now;
        here.keeper = Keeper::new(State::Idle, WATCHDOG_MS);
        if let Some(vol) = &mut here.vol {
            vol.conn = Conn::Connecting(now);
        }
        self.start_agent(node);
    }

    /// The agent dies: the VM, helpers and the kernel go on.
    pub fn kill_agent(&mut self, node: usize, landed: bool, back: Option<u32>) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.note(|_| format!("** {} agent killed", slot(node)));
        self.lose_agent(node, landed);
        let power = self.nodes[node].power;
        if let Some(rounds) = back {
            self.later(rounds, Event::AgentStart { node, power });
        }
    }

    /// The agent starts: on a booted server, or again under a running VM.
    pub fn start_agent(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].core.is_some() {
            return;
        }
        self.note(|_| format!("** {} agent starts", slot(node)));
        let boot = u64::from(self.fresh(node));
        let stale = self.mutated(Mutation::StaleState);
        let config = config(slot(node), boot << 16, self.mutation);
        let here = &mut self.nodes[node];
        (here.boot, here.seq, here.told_link) = (boot, 0, None);
        here.core = Some(Arc::new(Core::new(config)));
        let disk = if stale { &here.older_disk } else { &here.disk };
        let (durable, path) = (disk.clone(), here.route);
        let vms = found_vm(here);
        let helpers: Vec<u64> = here.helpers.iter().map(|helper| helper.id).collect();
        self.feed(node, Input::Boot(Box::new(BootFacts { durable, vms, path })));
        let home = NodeSlot::A;
        self.feed(node, Input::Desired(vec![DesiredVm { name: vm_name(), home, weight: 1 }]));
        self.tell_box(node);
        self.tell_ready(node);
        self.tell_links();
        for id in helpers {
            self.work(node, Work::HelperAsks(id));
        }
    }

    pub fn tell_ready(&mut self, node: usize) {
        if self.nodes[node].vol.is_some() {
            self.feed(node, Input::VolumesReady { vm: vm_name(), ready: true });
        }
    }

    pub fn renew_lease(&mut self, node: usize) {
        let now = self.now();
        // Refused if it is not armed or too late.
        let _ = self.nodes[node].keeper.renew(now);
    }

    /// The keeper pets the hardware, which resets a server that is no longer vouched for.
    pub fn watchdog(&mut self, node: usize) {
        let now = self.now();
        let here = &mut self.nodes[node];
        if here.up && here.keeper.step(now) == Action::Pet {
            here.petted_at = now;
        }
        let armed = here.keeper.state() != State::Idle;
        // The hardware is a little late at most: by less than a round.
        if here.up && armed && now >= here.petted_at + WATCHDOG_MS + ROUND_MS {
            self.note(|_| format!("** {} reset by its watchdog", slot(node)));
            self.power_off(node, false, Some(REBOOT_ROUNDS));
        }
    }
}

fn found_vm(here: &Node) -> Vec<(VmName, VmRun)> {
    let primary = here.vol.as_ref().is_some_and(|vol| vol.primary);
    let found = here.run != VmRun::Stopped || primary;
    found.then(|| (vm_name(), here.run)).into_iter().collect()
}

fn often(effect: &Effect) -> bool {
    matches!(effect, Effect::SendPeer { .. } | Effect::RenewLease | Effect::ReadWitness { .. })
}
