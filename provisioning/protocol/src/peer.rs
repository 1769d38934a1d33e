// SPDX-License-Identifier: Apache-2.0
//! Datagrams between the two agents of a pair, sent inside both WireGuard tunnels.
//!
//! A datagram may be lost, repeated or late; the receiver drops what is oversized, of another
//! site, from its own slot, or of an older boot or sequence than it has seen.

use crate::ids::{Epoch, NodeSlot, SiteName, VmName};
use crate::witness::WitnessRecord;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// UDP port of peer messages, inside the tunnels.
pub const PEER_PORT: u16 = 7411;
/// TCP port on which a server offers template chunks to its peer, inside the tunnels.
pub const PEER_CHUNK_PORT: u16 = 7412;
/// TCP port on which a server receives the memory of a VM that moves live, inside the tunnels.
pub const PEER_MEMORY_PORT: u16 = 7413;
/// Longest [`MemoryOffer`], and answer to it, in bytes.
pub const MEMORY_OFFER_BYTES_MAX: usize = 512;
/// Longest datagram, in bytes.
pub const PEER_BYTES_MAX: usize = 4096;

/// By which way a message came, or a path lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The direct cable.
    Cable,
    /// The site's LAN.
    Lan,
}

impl Path {
    /// Both paths, the preferred one first.
    pub const BOTH: [Self; 2] = [Self::Cable, Self::Lan];
}

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDatagram {
    /// Contract version, [`crate::PROTOCOL_VERSION`].
    pub v: u32,
    /// The site both belong to.
    pub site: SiteName,
    /// Who speaks.
    pub from: NodeSlot,
    /// Random at each start of the sender's agent: tells a restart from a reordering.
    pub boot: u64,
    /// Counts up within `boot`.
    pub seq: u64,
    /// What is said.
    pub body: PeerBody,
}

/// Who breaks the tie when the two servers cannot talk.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// The witness at HQ.
    #[default]
    Hq,
    /// A witness on site.
    Local,
    /// One of the two servers.
    Node(NodeSlot),
}

/// What one agent tells the other, several times a second.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerBody {
    /// Sender's durable epoch.
    pub epoch: Epoch,
    /// Sender's state in words of `agent-core` (PAIR, SUSPECT, SOLO, …).
    pub state: PeerState,
    /// Sender's durable in-sync set.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Whether the sender's hardware watchdog is armed.
    pub watchdog_armed: bool,
    /// Paths on which the sender hears the receiver at this moment.
    pub hears: BTreeSet<Path>,
    /// Whether all of the sender's volumes are connected to the receiver's.
    pub link_up: bool,
    /// Whether all of the sender's own volumes are up to date.
    pub disks_up_to_date: bool,
    /// VMs running on the sender now.
    pub running: BTreeSet<VmName>,
    /// VMs the sender has certainly stopped since `epoch` began (a loser's release).
    pub released: bool,
    /// Sender's view of the witness, if it heard it lately.
    pub witness: Option<WitnessRecord>,
    /// A proposal that waits for the receiver's durable consent, and consents given.
    pub agree: Option<Agreement>,
    /// Whether the sender's durable state says that it goes on alone.
    #[serde(default)]
    pub solo: bool,
    /// Whether the sender has asked the witness to go on alone at its present epoch.
    #[serde(default)]
    pub claimed: bool,
    /// Whether the sender has it on disk that the receiver's watchdog is armed.
    #[serde(default)]
    pub sees_watchdog: bool,
    /// Sender's durable table of where each VM belongs.
    #[serde(default)]
    pub owners: BTreeMap<VmName, NodeSlot>,
    /// Sender's durable tie-break.
    #[serde(default)]
    pub tie: Tie,
    /// Whether the witness at HQ has not answered the sender for so long that the pair should
    /// settle a tie by itself.
    #[serde(default)]
    pub hq_lost: bool,
    /// What the sender knows of a witness on site.
    #[serde(default)]
    pub local_witness: LocalWitness,
    /// VMs on their way from one server to the other, and where they go, on the sender's disk.
    #[serde(default)]
    pub moves: BTreeMap<VmName, NodeSlot>,
    /// The VM whose memory the sender is ready to receive, or cannot (no ticket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receives: Option<Handover>,
    /// The VM whose memory has gone over to the receiver whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed: Option<Handover>,
}

/// A VM on its way with its memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handover {
    /// Which one.
    pub vm: VmName,
    /// The one stream it is about: made by the receiving server for each QEMU that waits for one.
    pub ticket: Option<u64>,
}

/// What a server says first on a connection to [`PEER_MEMORY_PORT`]: one line of JSON. The answer
/// is a line, `ok` or why not; after it follows what QEMU says to QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryOffer {
    /// The site both belong to.
    pub site: SiteName,
    /// Whose memory comes.
    pub vm: VmName,
    /// For which QEMU.
    pub ticket: u64,
}

/// A witness on site as one server knows it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum LocalWitness {
    /// None is set up.
    #[default]
    None,
    /// It has not answered for a moment, or not yet.
    Unsure,
    /// It answers.
    Heard,
    /// It has not answered for so long that the pair should settle a tie without it.
    Lost,
}

impl LocalWitness {
    /// Whether the tie-break has no business there.
    #[must_use]
    pub fn is_gone(self) -> bool {
        matches!(self, Self::None | Self::Lost)
    }
}

/// States a server tells its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PeerState {
    /// Starting; nothing decided yet.
    Boot,
    /// Both servers in sync.
    Pair,
    /// Connected, the peer or this one catching up.
    Resync,
    /// Replication lost; volumes frozen.
    Suspect,
    /// Going on alone under a grant.
    Solo,
    /// Lost the arbitration; releasing VMs and volumes.
    Loser,
    /// May not run VMs; waiting for the peer, a witness or an operator.
    Wait,
    /// Under maintenance.
    Maint,
}

/// A step of the pair's own agreement (rule R1, and joins of rule R4).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Agreement {
    /// The epoch both move to.
    pub epoch: Epoch,
    /// The in-sync set both move to.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Whether the sender has it on disk already.
    pub durable: bool,
    /// Whether the sender has marked its own volumes outdated for it.
    pub outdated: bool,
}
