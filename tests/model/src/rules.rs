// SPDX-License-Identifier: Apache-2.0
//! The times of the model, its bounds, and the rules it can break on purpose.

use agent_core::Config;
use clap::ValueEnum;
use provisioning_protocol::ids::NodeSlot;

/// Lease of the agent (longer than the keeper's doubt, 3 s) and time of the hardware watchdog after it.
pub const LEASE_MS: u64 = 4_500;
pub const WATCHDOG_MS: u64 = 3_000;

/// The appliance's rules with shorter waits, in the same order: a frozen VM is paused (3 s) before
/// its server can be fenced, notice (2.5 s) + lease (4.5 s) + watchdog (3 s) < T_fence (12 s). The
/// graces of a start alone and the wait before the tie-break moves only put off what is dangerous;
/// short ones make it more likely.
pub fn config(slot: NodeSlot, nonce: u64, mutation: Option<Mutation>) -> Config {
    let fence_ms = if mutation == Some(Mutation::IgnoreFence) { 0 } else { 12_000 };
    Config {
        pause_ms: 3_000,
        fence_ms,
        switch_ms: 4_000,
        evict_ms: 6_000,
        retry_ms: 2_000,
        solo_boot_ms: 6_000,
        cold_boot_ms: 8_000,
        tie_ms: 5_000,
        witness_poll_ms: 4_000,
        failback_ms: 6_000,
        ..Config::new(slot, nonce)
    }
}

/// A rule broken on purpose: the model must show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// The witness says yes to everyone.
    WitnessGrantsAll,
    /// Helpers of frozen primaries are answered 7 without a grant.
    ThawWithoutGrant,
    /// An unfinished resync is shown as finished.
    JoinBeforeResync,
    /// The state is called durable although it never reached the disk.
    SkipPersist,
    /// The peer's VMs are started without waiting.
    IgnoreFence,
    /// A frozen server keeps its vCPUs running and its lease alive.
    KeepRunning,
    /// After a crash an older state is read.
    StaleState,
    /// An eviction thaws a volume before it takes its disk away.
    ResumeBeforeDetach,
    /// Volumes that stand alone are left so.
    NeverReconnect,
    /// Slot B asks HQ whatever it should ask.
    WrongWitness,
    /// A new witness is believed at once, by its record as it stands.
    BelieveAtOnce,
    /// A witness put back from an older copy does not notice.
    UnnoticedCopy,
    /// The box answers a swap before it is on its disk.
    AnswerBeforeSync,
}

impl Mutation {
    /// Each with a promise it must be seen to break.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::WitnessGrantsAll, "I1"),
        (Self::NeverReconnect, "liveness"),
        (Self::ThawWithoutGrant, "I2"),
        (Self::JoinBeforeResync, "I3"),
        (Self::SkipPersist, "I5"),
        (Self::IgnoreFence, "I4"),
        (Self::KeepRunning, "I4"),
        (Self::StaleState, "I5"),
        (Self::ResumeBeforeDetach, "I6"),
        (Self::WrongWitness, "I1"),
        (Self::BelieveAtOnce, "I1"),
        (Self::UnnoticedCopy, "I1"),
        (Self::AnswerBeforeSync, "I1"),
    ];

    /// What it can be seen from: some rules matter only where there is a box.
    #[must_use]
    pub fn begin(self) -> Begin {
        match self {
            Self::WrongWitness | Self::UnnoticedCopy | Self::AnswerBeforeSync => Begin::BoxPair,
            Self::BelieveAtOnce => Begin::BoxBack,
            _ => Begin::Pair,
        }
    }
}

/// What a behaviour begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Begin {
    /// A healthy pair, HQ its witness.
    Pair,
    /// Two servers switched on for the first time.
    New,
    /// A healthy pair with the tie-break on a box on site. HQ has the record of before.
    BoxPair,
    /// Two servers switched on for the first time, and a box.
    BoxNew,
    /// A healthy pair with the tie-break at HQ, and a box that had it once and is there again: the
    /// tie-break is about to move, and the box's record is an old one.
    BoxBack,
    /// As `BoxPair`, and HQ has not been heard of for long.
    BoxNoHq,
}

impl Begin {
    /// Whether there is a witness on site.
    #[must_use]
    pub fn has_box(self) -> bool {
        !matches!(self, Self::Pair | Self::New)
    }

    /// Whether it looks the same at any time, until the first fault.
    #[must_use]
    pub fn is_calm(self) -> bool {
        matches!(self, Self::Pair | Self::BoxPair | Self::BoxNoHq)
    }
}

/// How far the model looks. The first fault comes at round 0, or at any time if what it begins with
/// is on the move.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Faults in one behaviour, at most.
    pub faults: u8,
    /// Rounds after the first fault in which the others may come.
    pub window: u32,
    /// Rounds after the first fault at which a behaviour ends.
    pub horizon: u32,
    /// In a quiet site faults are tried every so many rounds; while anything is on its way, at
    /// every step.
    pub grid: u32,
    /// What it begins with.
    pub begin: Begin,
    /// Heal everything at the end, and ask for a healthy pair.
    pub liveness: bool,
}
