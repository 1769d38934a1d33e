// SPDX-License-Identifier: Apache-2.0
//! What a run is asked to do, and what comes of it.

use std::collections::BTreeSet;
use std::fmt;

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Random faults; the invariants must hold after every event.
    Safety,
    /// As above, then everything is healed and the pair must come back; then one server is
    /// lost for good and the other must run all VMs.
    Liveness,
}

/// A rule broken on purpose: the checks must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Helpers of frozen primaries are answered 7 without a grant.
    ThawWithoutGrant,
    /// The state is called durable although it never reached the disk.
    SkipPersist,
    /// The peer's VMs are started without waiting.
    IgnoreFence,
    /// A frozen server keeps its vCPUs running and its lease alive.
    KeepRunning,
    /// The witness says yes to everyone.
    WitnessGrantsAll,
    /// An unfinished resync is shown as finished.
    JoinBeforeResync,
    /// After a crash an older state is read.
    StaleState,
    /// A loser reports its eviction without carrying it out.
    FalseRelease,
    /// Helpers outstanding are hidden from the core.
    HideHelpers,
    /// The server that gives the tie-break up has it on its disk all the same.
    TieToBoth,
    /// One server asks HQ when it should ask the witness on site.
    WrongWitness,
    /// A BMC says that its server is off, and it is not.
    BmcLies,
    /// A confirmed power-off is a right to go on where no tie-break is in reach.
    BmcAsTie,
    /// A VM that is to move is said to have stopped while it runs on.
    FalseStop,
    /// A VM goes on with whatever memory has come over.
    StaleMemory,
    /// A VM that was taken off the LAN is not put back.
    TapStaysDown,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ThawWithoutGrant,
        Self::SkipPersist,
        Self::IgnoreFence,
        Self::KeepRunning,
        Self::WitnessGrantsAll,
        Self::JoinBeforeResync,
        Self::StaleState,
        Self::FalseRelease,
        Self::HideHelpers,
        Self::TieToBoth,
        Self::WrongWitness,
        Self::BmcLies,
        Self::BmcAsTie,
        Self::FalseStop,
        Self::StaleMemory,
        Self::TapStaysDown,
    ];
}

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Opts {
    /// What is to be shown.
    pub mode: Mode,
    /// Simulated time with faults, milliseconds.
    pub fault_ms: u64,
    /// A rule broken on purpose.
    pub mutation: Option<Mutation>,
    /// Keep a trace of everything.
    pub trace: bool,
    /// A person at a frozen server says that the other one is off, which is true.
    pub operator: bool,
}

impl Opts {
    /// The usual run of a mode.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self { mode, fault_ms: 240_000, mutation: None, trace: false, operator: false }
    }
}

/// What is left out of a run, to make it smaller; see [`crate::shrink`].
#[derive(Debug, Clone, Default)]
pub struct Less {
    /// Faults, by number.
    pub faults: BTreeSet<u32>,
    /// Loss, repetition and delay of datagrams.
    pub loss: bool,
    /// All VMs but one.
    pub vms: bool,
}

/// Counts of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Inputs given to the two cores: states checked.
    pub steps: u64,
    /// Acknowledged writes.
    pub acked: u64,
    /// Times a server went on alone.
    pub solos: u64,
    /// VMs started on a server to which they did not belong.
    pub takeovers: u64,
    /// Times a server gave way by agreement.
    pub yields: u64,
    /// Times a server recorded both in sync.
    pub pairs: u64,
    /// Times a BMC confirmed that a server is off.
    pub fenced: u64,
    /// Times a VM was given to the other server by a planned move.
    pub moves: u64,
    /// Times a VM went on with its memory on the other server.
    pub live: u64,
    /// Claims that a server won right after a start, running nothing.
    pub cold_claims: u64,
    /// Those before which the witness had heard the other server last, three times or more.
    pub late_claims: u64,
    /// Evictions.
    pub evictions: u64,
    /// Faults caused.
    pub faults: u64,
    /// Time from healing everything to a healthy pair.
    pub heal_ms: u64,
    /// Time from the last server loss to all VMs running on the other.
    pub failover_ms: u64,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// Simulated time, milliseconds.
    pub at_ms: u64,
    /// What was broken.
    pub what: String,
    /// Numbers of the faults that were caused.
    pub caused: Vec<u32>,
    /// What happened before (only of a run with `trace`).
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} at {} ms: {}", self.seed, self.at_ms, self.what)
    }
}
