// SPDX-License-Identifier: Apache-2.0
//! What a server must remember across a power loss.

use provisioning_protocol::ids::{Epoch, NodeSlot, VmName};
pub use provisioning_protocol::peer::Tie;
use provisioning_protocol::witness::WitnessRecord;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Monotonic milliseconds; any origin, never back within one boot of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// Time passed since `earlier`, 0 if it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// How far the witness had got when it was last believed (rule R10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessMark {
    /// Its incarnation.
    pub incarnation: u64,
    /// Its version then.
    pub version: u64,
    /// Its epoch then.
    pub epoch: Epoch,
}

impl WitnessMark {
    /// The mark a record leaves.
    #[must_use]
    pub fn of(record: &WitnessRecord) -> Self {
        Self { incarnation: record.incarnation, version: record.version, epoch: record.epoch }
    }
}

/// The durable state: two checksummed slots on the OS disk, never on a replicated volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurableState {
    /// Whose state this is: a slot of another server is not believed.
    pub node: NodeSlot,
    /// Membership epoch; never goes back.
    pub epoch: Epoch,
    /// Who breaks the tie.
    pub tie: Tie,
    /// Servers that hold every acknowledged write, as far as this server has agreed.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Whether this server goes on alone at `epoch` (then `in_sync` is itself alone).
    pub solo: bool,
    /// Whether an operator declared the peer dead to get here.
    #[serde(rename = "override")]
    pub override_: bool,
    /// Whether this server, alone, had the peer switched off by its BMC (or was about to).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// The witness when last believed.
    pub last_seen: Option<WitnessMark>,
    /// Whether the peer's watchdog was armed at the last contact.
    pub peer_watchdog: bool,
    /// On which server each VM belongs.
    pub owners: BTreeMap<VmName, NodeSlot>,
    /// VMs on their way to the other server, and where they go. Left out while there are none, so
    /// that an older agent can read the rest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moves: BTreeMap<VmName, NodeSlot>,
}

impl DurableState {
    /// A server that has never been in a pair: no vote, no VM.
    #[must_use]
    pub fn fresh(node: NodeSlot) -> Self {
        Self {
            node,
            epoch: Epoch(0),
            tie: Tie::Hq,
            in_sync: BTreeSet::new(),
            solo: false,
            override_: false,
            fenced: false,
            last_seen: None,
            peer_watchdog: false,
            owners: BTreeMap::new(),
            moves: BTreeMap::new(),
        }
    }

    /// Whether this server has a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.in_sync.contains(&self.node)
    }

    /// Whether both servers are in sync.
    #[must_use]
    pub fn paired(&self) -> bool {
        self.in_sync.len() == 2
    }
}
