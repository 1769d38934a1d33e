// SPDX-License-Identifier: Apache-2.0
//! The heart of a server: decides which of two servers may run VMs, and never does anything.
//!
//! [`Input`]s (facts) go in, [`Effect`]s (orders) come out of [`Core::step`]. No clock, no file,
//! no socket, no randomness in here: the same inputs give the same effects.

mod config;
mod effect;
mod input;
mod state;

pub use config::Config;
pub use effect::{Cause, Effect, HelperCode};
pub use input::{BootFacts, DesiredVm, Disk, Input, LinkSummary, VmRun, VmSet};
pub use state::{DurableState, Millis, Tie, WitnessMark};

use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::{Path, PeerState};
use std::collections::BTreeSet;

/// One server's decisions.
#[derive(Debug, Clone)]
pub struct Core {
    config: Config,
}

/// What a person may see of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: PeerState,
    /// The durable epoch.
    pub epoch: Epoch,
    /// The durable in-sync set.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Paths on which the peer is heard.
    pub paths: BTreeSet<Path>,
    /// The path replication uses.
    pub replication: Path,
    /// Why the state is what it is, and what is waited for, in one line.
    pub cause: String,
    /// What a person should look at, worst first.
    pub problems: Vec<String>,
}

impl Core {
    /// A core that has not booted; the first input must be [`Input::Boot`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Takes a fact, gives orders. `now` never goes back.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let _ = (now, input, &self.config);
        Vec::new()
    }

    /// What to show.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            state: PeerState::Boot,
            epoch: Epoch(0),
            in_sync: BTreeSet::new(),
            paths: BTreeSet::new(),
            replication: Path::Cable,
            cause: String::new(),
            problems: Vec::new(),
        }
    }
}
