// SPDX-License-Identifier: Apache-2.0
//! The site as `stateright` sees it.

use crate::faults::{Fault, Step};
use crate::promises::PROMISES;
use crate::rules::{Bounds, Mutation};
use crate::site::{Site, TURNS};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A state, known by its digest.
#[derive(Clone)]
struct State {
    digest: u64,
    site: Site,
}

impl State {
    fn new(site: Site) -> Self {
        Self { digest: site.digest(), site }
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.digest);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.site.states())
    }
}

struct Pair {
    bounds: Bounds,
    start: Site,
    tally: Arc<Tally>,
}

/// Counted on the side.
#[derive(Debug, Default)]
struct Tally {
    steps: AtomicU64,
    ended: AtomicU64,
    turns: AtomicU64,
}

impl Model for Pair {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.start.clone())]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        state.site.steps(&self.bounds, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut site = state.site.clone();
        (site.steps, site.turns) = (0, 0);
        site.take(step, &self.bounds);
        self.tally.steps.fetch_add(site.steps, Ordering::Relaxed);
        self.tally.ended.fetch_add(u64::from(site.ended), Ordering::Relaxed);
        self.tally.turns.fetch_or(site.turns, Ordering::Relaxed);
        Some(State::new(site))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let [i1, i2, i3, i4, i5, i6, core, liveness] = PROMISES;
        let always = |name, holds| Property::<Self>::always(name, holds);
        vec![
            always(i1, |_, state| !state.site.broken.has("I1")),
            always(i2, |_, state| !state.site.broken.has("I2")),
            always(i3, |_, state| !state.site.broken.has("I3")),
            always(i4, |_, state| !state.site.broken.has("I4")),
            always(i5, |_, state| !state.site.broken.has("I5")),
            always(i6, |_, state| !state.site.broken.has("I6")),
            always(core, |_, state| !state.site.broken.has("core")),
            always(liveness, |_, state| !state.site.broken.has("liveness")),
        ]
    }
}

/// A promise that was broken, and how.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its name.
    pub promise: &'static str,
    /// What was chosen on the way.
    pub steps: Vec<Step>,
    /// What happened.
    pub trace: Vec<String>,
}

impl Finding {
    /// What broke on the way.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let fault = |step: &Step| if let Step::Break(fault) = step { Some(*fault) } else { None };
        self.steps.iter().filter_map(fault).collect()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        let chosen = self.steps.iter().filter(|step| **step != Step::GoOn).count();
        write!(f, "{} is broken, after {chosen} choices: {:?}", self.promise, self.steps)
    }
}

/// What came of a check.
#[derive(Debug, Clone)]
pub struct Checked {
    /// States in which there was something to choose, each once.
    pub unique: usize,
    /// The same, counted as often as they were come to.
    pub states: usize,
    /// Behaviours that came to their end.
    pub ended: u64,
    /// Inputs given to the two cores.
    pub steps: u64,
    /// Turns that were taken somewhere (`grant`, `takeover`, `evicted`, …).
    pub turns: Vec<&'static str>,
    /// Choices in the longest behaviour.
    pub depth: usize,
    /// Broken promises, each once.
    pub findings: Vec<Finding>,
}

/// Looks at every behaviour within the bounds; ends at the first broken promise, or at one of
/// `until` if it is given.
///
/// # Panics
/// If no healthy pair comes about to begin with.
#[must_use]
pub fn check(
    bounds: Bounds,
    mutation: Option<Mutation>,
    until: Option<&'static str>,
    threads: usize,
) -> Checked {
    let start = Site::begun(bounds.begin, mutation, bounds.faults);
    let tally = Arc::new(Tally::default());
    let pair = Pair { bounds, start: start.clone(), tally: Arc::clone(&tally) };
    let finish =
        until.map_or(HasDiscoveries::Any, |name| HasDiscoveries::AnyOf(BTreeSet::from([name])));
    let checker = pair.checker().threads(threads).finish_when(finish);
    let checker = checker.spawn_dfs().join();
    let mut findings: Vec<Finding> = checker
        .discoveries()
        .into_iter()
        .map(|(promise, path)| retell(&start, bounds, promise, path.into_actions()))
        .collect();
    findings.sort_by_key(|finding| finding.promise);
    Checked {
        unique: checker.unique_state_count(),
        states: checker.state_count(),
        ended: tally.ended.load(Ordering::Relaxed),
        steps: tally.steps.load(Ordering::Relaxed),
        turns: turns(tally.turns.load(Ordering::Relaxed)),
        depth: checker.max_depth(),
        findings,
    }
}

fn turns(flags: u64) -> Vec<&'static str> {
    let taken = TURNS.iter().enumerate().filter(|(at, _)| flags >> at & 1 == 1);
    taken.map(|(_, turn)| *turn).collect()
}

fn retell(start: &Site, bounds: Bounds, promise: &'static str, steps: Vec<Step>) -> Finding {
    let mut site = start.clone();
    site.trace = Some(Vec::new());
    for step in &steps {
        site.take(*step, &bounds);
    }
    Finding { promise, steps, trace: site.trace.unwrap_or_default() }
}
