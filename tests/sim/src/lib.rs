// SPDX-License-Identifier: Apache-2.0
//! A whole site under one seed: two real cores, fake volumes, network, witness and power, in
//! simulated time. The same seed gives the same run; a failing one is made as small as it gets.

mod bmc;
mod check;
pub mod drbd;
mod endings;
mod faults;
mod kernel;
mod lan;
mod live;
mod local;
mod moves;
mod net;
mod opts;
mod person;
mod rng;
mod schedules;
mod shell;
mod shrink;
mod world;

pub use check::holds_all;
pub use opts::{Failure, Less, Mode, Mutation, Opts, Stats};
pub use schedules::{Explored, Fault, Grid, Schedule, explore, replay};
pub use shrink::shrink;

use agent_core::{Input, Placement, VmRun};
use shell::LEASE_MS;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Event, KERNEL_MS, World};

/// Longest time from a healed site to a healthy pair: the grace of a cold start, a resync, and
/// the rounds of agreement.
pub(crate) const HEAL_MS_MAX: u64 = 300_000;

/// Runs one seed.
///
/// # Errors
/// [`Failure`] if a promise was broken or the core panicked; with a trace only if `opts.trace`.
pub fn run(seed: u64, opts: Opts) -> Result<Stats, Failure> {
    run_less(seed, opts, Less::default())
}

/// Runs one seed with something left out.
///
/// # Errors
/// As [`run`].
pub fn run_less(seed: u64, opts: Opts, less: Less) -> Result<Stats, Failure> {
    World::new(seed, opts, less).result()
}

/// Runs one seed with a trace, which is given also if all holds.
pub fn run_traced(seed: u64, opts: Opts) -> (Result<Stats, Failure>, Vec<String>) {
    let mut world = World::new(seed, Opts { trace: true, ..opts }, Less::default());
    let result = world.result();
    (result, world.trace)
}

impl World {
    fn result(&mut self) -> Result<Stats, Failure> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.live()));
        if let Err(panic) = outcome {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            self.fail(format!("the core stopped: {text}"));
        }
        let Some(what) = self.failure.take() else { return Ok(self.stats) };
        let (caused, trace) = (self.caused.clone(), self.trace.clone());
        Err(Failure { seed: self.seed, at_ms: self.now, what, caused, trace })
    }

    fn live(&mut self) {
        self.begin();
        let first = self.rng.range(10_000, 30_000);
        self.at(first, Event::Fault);
        self.first_order();
        self.until(self.opts.fault_ms, |_| false);
        if self.opts.mode == Mode::Liveness && self.failure.is_none() {
            self.show_liveness();
        }
    }

    /// Both servers are switched on.
    pub(crate) fn begin(&mut self) {
        for node in 0..2 {
            let after = self.rng.range(0, 5_000);
            self.at(after, Event::Boot { node, power: 0 });
        }
        for vm in 0..self.vms.len() {
            let after = self.rng.range(0, 300);
            self.at(after, Event::Write { vm });
        }
        self.at(0, Event::Kernel);
        let made = if self.rng.coin() { 0 } else { self.rng.range(4_000, 12_000) };
        self.at(made, Event::MakeVolumes);
    }

    fn show_liveness(&mut self) {
        self.heal_all();
        // A VM on its way is down for a moment; the acts that follow give orders of their own.
        self.place(Placement::default());
        let start = self.now;
        // A lease from before may still run out, and its server be reset.
        self.until(start + LEASE_MS, |_| false);
        if !self.until(start + HEAL_MS_MAX, Self::healthy) {
            let states = self.states();
            return self.fail(format!(
                "liveness: no healthy pair {HEAL_MS_MAX} ms after healing: {states}"
            ));
        }
        self.stats.heal_ms = self.now - start;
        let settle = self.now + 15_000;
        self.until(settle, |_| false);
        if !self.healthy() {
            let states = self.states();
            return self.fail(format!("liveness: the pair did not stay healthy: {states}"));
        }
        self.show_ending();
    }

    pub(crate) fn states(&self) -> String {
        let state = |node: &world::Node| {
            node.core.as_ref().map_or("down".to_owned(), |core| format!("{:?}", core.status()))
        };
        format!("A {} / B {}", state(&self.nodes[0]), state(&self.nodes[1]))
    }

    /// Runs events up to `end`, or until `done` or a failure. Whether it ended by `done`.
    pub(crate) fn until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        while let Some(event) = self.pop(end) {
            let look = matches!(event, Event::Kernel);
            self.handle(event);
            if self.failure.is_some() {
                return false;
            }
            if look && done(self) {
                return true;
            }
        }
        self.now = end;
        false
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { node, agent } => {
                if self.nodes[node].agent != agent {
                    return;
                }
                let jitter = self.rng.range(80, 130);
                self.at(jitter, Event::Tick { node, agent });
                if self.mutated(Mutation::KeepRunning) {
                    self.renew_lease(node);
                }
                self.feed(node, Input::Tick);
            }
            Event::Kernel => {
                self.at(KERNEL_MS, Event::Kernel);
                self.kernel();
                for node in 0..2 {
                    self.check_taps(node);
                    self.watchdog(node);
                    if self.mutated(Mutation::BmcAsTie) {
                        self.bmc_as_a_tie(node);
                    }
                    if self.opts.operator {
                        self.person(node);
                    }
                }
            }
            Event::Write { vm } => {
                let next = self.rng.range(150, 450);
                self.at(next, Event::Write { vm });
                self.write(vm);
            }
            Event::Message { to, path, boot, seq, body } => {
                self.message(to, path, boot, seq, body);
            }
            Event::WitnessAsked { from, at, agent, request_id, swap } => {
                self.witness_asked(from, at, agent, request_id, swap.as_ref());
            }
            Event::WitnessAnswered { to, agent, answer } => {
                if self.nodes[to].agent == agent {
                    self.feed(to, Input::WitnessAnswered(*answer));
                }
            }
            Event::Shell { node, agent, what } => self.shell_event(node, agent, what),
            Event::Boot { node, power } => {
                if self.nodes[node].power == power {
                    self.power_on(node);
                }
            }
            Event::AgentStart { node, power } => {
                let here = &self.nodes[node];
                if here.power == power && here.core.is_none() {
                    if here.hung {
                        return self.at(500, Event::AgentStart { node, power });
                    }
                    self.start_agent(node);
                }
            }
            Event::Wake { node, power } => self.wake(node, power),
            Event::Continue { node, agent } => self.go_on(node, agent),
            Event::Fault => self.fault(),
            Event::Heal(what) => self.heal(what),
            Event::MakeVolumes => self.make_volumes(),
            Event::Order => self.order_placement(),
            Event::Ordered { node, power, placement } => self.hear_order(node, power, placement),
        }
    }

    /// A hung server finishes nothing; what was under way is done when it wakes.
    fn shell_event(&mut self, node: usize, agent: u32, what: world::Shell) {
        if self.nodes[node].agent != agent {
            return;
        }
        if self.nodes[node].hung {
            return self.at(200, Event::Shell { node, agent, what });
        }
        self.shell(node, what);
    }

    fn wake(&mut self, node: usize, power: u32) {
        if self.nodes[node].power != power || !self.nodes[node].hung {
            return;
        }
        self.nodes[node].hung = false;
        self.nodes[node].woke_at = self.now;
        self.note(|_| format!("** {} wakes", world::slot(node)));
        for vm in 0..self.vms.len() {
            self.check_vcpus(vm);
        }
        self.tell_links();
    }

    /// A stopped agent goes on and finds all that came meanwhile.
    fn go_on(&mut self, node: usize, agent: u32) {
        if self.nodes[node].agent != agent {
            return;
        }
        if self.nodes[node].hung {
            return self.at(200, Event::Continue { node, agent });
        }
        let Some(backlog) = self.nodes[node].backlog.take() else { return };
        self.nodes[node].woke_at = self.now;
        self.note(|_| {
            format!("** {} agent goes on, {} inputs late", world::slot(node), backlog.len())
        });
        for input in backlog {
            self.feed(node, input);
        }
    }

    /// Volumes are made on both servers together, once both are there.
    fn make_volumes(&mut self) {
        let ready = (0..2).all(|n| self.replicates(n) && self.nodes[n].core.is_some());
        if !ready {
            return self.at(500, Event::MakeVolumes);
        }
        let generation = self.fresh();
        let now = self.now;
        for node in 0..2 {
            let mut vol = drbd::Vol::new(generation);
            (vol.conn, vol.peer_disk) = (drbd::Conn::Connected, agent_core::Disk::UpToDate);
            let _ = now;
            self.nodes[node].vols = vec![vol; self.vms.len()];
        }
        self.volumes_made = true;
        for node in 0..2 {
            self.tell_ready(node);
        }
        self.tell_links();
    }

    fn guest_ends(&mut self, node: usize, vm: usize) {
        if self.nodes[node].alive() && self.nodes[node].runs[vm] == VmRun::Running {
            self.nodes[node].runs[vm] = VmRun::Stopped;
            self.nodes[node].vols[vm].waiting = None;
            let name = self.vms[vm].clone();
            self.feed(node, Input::VmState { vm: name, state: VmRun::Failed });
        }
    }
}
