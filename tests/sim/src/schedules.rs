// SPDX-License-Identifier: Apache-2.0
//! Every schedule of a few faults on a grid of times, on a site that was healthy before: what
//! chance does not reach is not left out.
//!
//! The first fault comes at once (a healthy pair looks the same at any time), the others at each
//! step of the grid. After each schedule all is healed and the pair must come back.

use crate::opts::{Less, Mode, Mutation, Opts};
use crate::world::World;
use crate::{HEAL_MS_MAX, shell::LEASE_MS};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Time in which a site becomes a healthy pair before the first fault.
const CALM_MS: u64 = 60_000;
/// Time between the last fault and healing: T_fence, a takeover and more.
const AFTER_MS: u64 = 45_000;
/// Longer than DRBD's timeouts, shorter than a lease ...
const SHORT_MS: u64 = 6_000;
/// ... just under the hardware watchdog's time ...
const NEARLY_MS: u64 = 9_500;
/// ... and longer than all there is.
const LONG_MS: u64 = 60_000;

/// One thing that breaks. A number is a server (0 or 1), a time is in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Power lost, back after this long.
    Power(usize, u64),
    /// Power lost at the next change of the durable state: before it is on disk, or right after.
    PowerAtWrite(usize, bool),
    /// The agent dies; it is started again after this long.
    AgentKilled(usize, u64),
    /// The agent is stopped (SIGSTOP) for this long.
    AgentStopped(usize, u64),
    /// The whole server stands still for this long.
    Hang(usize, u64),
    /// Both paths are cut.
    Links(u64),
    /// What a server sends on both paths is lost.
    LinksFrom(usize, u64),
    /// The cable is cut.
    Cable(u64),
    /// Replication is blocked; the agents hear each other.
    Replication(u64),
    /// A server is cut off from its peer and from HQ.
    Alone(usize, u64),
    /// HQ cannot be reached.
    Wan(u64),
    /// HQ hears, and its answers to this server are lost.
    Answers(usize, u64),
    /// HQ comes back with an older witness record.
    Rollback,
}

impl Fault {
    /// All of them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Links(SHORT_MS),
            Self::Links(LONG_MS),
            Self::Cable(LONG_MS),
            Self::Replication(LONG_MS),
            Self::Wan(LONG_MS),
            Self::Rollback,
        ];
        for node in 0..2 {
            all.extend([
                Self::Power(node, SHORT_MS),
                Self::Power(node, LONG_MS),
                Self::PowerAtWrite(node, false),
                Self::PowerAtWrite(node, true),
                Self::AgentKilled(node, 1_000),
                Self::AgentKilled(node, LONG_MS),
                Self::AgentStopped(node, NEARLY_MS),
                Self::Hang(node, SHORT_MS),
                Self::Hang(node, NEARLY_MS),
                Self::LinksFrom(node, LONG_MS),
                Self::Alone(node, LONG_MS),
                Self::Answers(node, LONG_MS),
            ]);
        }
        all
    }
}

/// Faults, each at a time after the first.
pub type Schedule = Vec<(u64, Fault)>;

/// Which schedules.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Faults in a schedule, at most.
    pub faults: usize,
    /// Between two times, milliseconds.
    pub step_ms: u64,
    /// From the first fault to the last, milliseconds.
    pub span_ms: u64,
    /// Seeds the site's own latencies.
    pub seed: u64,
    /// A rule broken on purpose.
    pub mutation: Option<Mutation>,
}

/// What came of some schedules.
#[derive(Debug, Default)]
pub struct Explored {
    /// Schedules run to their end.
    pub schedules: u64,
    /// Inputs given to the two cores.
    pub states: u64,
    /// Schedules that broke a promise, and what they broke.
    pub broken: Vec<(Schedule, String)>,
}

/// Runs every schedule that begins with `first`.
#[must_use]
pub fn explore(grid: Grid, first: Fault) -> Explored {
    let mut explored = Explored::default();
    let mut world = calm(grid, false);
    world.cause(first);
    explored.from(&world, grid, vec![(0, first)]);
    explored
}

/// Runs one schedule and gives all that happened.
#[must_use]
pub fn replay(grid: Grid, schedule: &[(u64, Fault)]) -> (Option<String>, Vec<String>) {
    let mut world = calm(grid, true);
    let start = world.now;
    for (at_ms, fault) in schedule {
        world.go(start + at_ms);
        world.cause(*fault);
    }
    let what = world.finish();
    (what, world.trace)
}

/// A healthy pair.
fn calm(grid: Grid, trace: bool) -> World {
    let opts =
        Opts { fault_ms: CALM_MS, mutation: grid.mutation, trace, ..Opts::new(Mode::Liveness) };
    let mut world = World::new(grid.seed, opts, Less { loss: true, ..Less::default() });
    world.quiet = true;
    world.begin();
    world.until(CALM_MS, |_| false);
    world.trace.clear();
    assert!(world.healthy(), "seed {}: no healthy pair to begin with", grid.seed);
    world
}

impl Explored {
    /// The schedule so far, and every longer one.
    fn from(&mut self, world: &World, grid: Grid, schedule: Schedule) {
        let mut alone = world.clone();
        if let Some(what) = alone.finish() {
            self.broken.push((schedule.clone(), what));
        }
        self.schedules += 1;
        self.states += alone.stats.steps - world.stats.steps;
        if schedule.len() >= grid.faults {
            return;
        }
        let last = schedule.last().map_or(0, |(at, _)| *at);
        let start = world.now - last;
        let mut world = world.clone();
        let mut at_ms = last;
        while at_ms <= grid.span_ms && world.failure.is_none() {
            for fault in Fault::all() {
                let mut next = world.clone();
                next.cause(fault);
                let mut longer = schedule.clone();
                longer.push((at_ms, fault));
                self.from(&next, grid, longer);
            }
            at_ms += grid.step_ms;
            world.go(start + at_ms);
        }
    }
}

impl World {
    fn go(&mut self, until: u64) {
        self.guarded(|world| {
            world.until(until, |_| false);
        });
    }

    /// Waits, heals and looks; what was broken, if anything.
    fn finish(&mut self) -> Option<String> {
        self.go(self.now + AFTER_MS);
        self.guarded(|world| {
            if world.failure.is_none() {
                world.heal_all();
                world.until(world.now + LEASE_MS, |_| false);
            }
            let end = world.now + HEAL_MS_MAX;
            if world.failure.is_none() && !world.until(end, Self::healthy) {
                let states = world.states();
                world.fail(format!("liveness: no healthy pair after healing: {states}"));
            }
        });
        self.failure.clone()
    }

    /// A core that stops is a broken promise, too.
    fn guarded(&mut self, run: impl FnOnce(&mut Self)) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(self))) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            self.fail(format!("the core stopped: {text}"));
        }
    }

    fn cause(&mut self, fault: Fault) {
        match fault {
            Fault::Power(node, ms) => self.power_off(node, Some(ms)),
            Fault::PowerAtWrite(node, landed) => self.nodes[node].dies_at_write = Some(landed),
            Fault::AgentKilled(node, ms) => self.agent_crash_for(node, ms),
            Fault::AgentStopped(node, ms) => self.stop_agent_for(node, ms),
            Fault::Hang(node, ms) => self.hang_for(node, ms),
            Fault::Links(ms) => (0..2).for_each(|from| self.cut_from(from, ms)),
            Fault::LinksFrom(node, ms) => self.cut_from(node, ms),
            Fault::Cable(ms) => (0..2).for_each(|from| self.cut(0, from, ms)),
            Fault::Replication(ms) => self.block_replication_for(ms),
            Fault::Alone(node, ms) => self.isolate_for(node, ms),
            Fault::Wan(ms) => (0..2).for_each(|node| self.cut_wan_of(node, true, ms)),
            Fault::Answers(node, ms) => self.cut_wan_of(node, false, ms),
            Fault::Rollback => self.witness_restored(),
        }
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} schedules, {} states checked, {} violations",
            self.schedules,
            self.states,
            self.broken.len()
        )
    }
}
