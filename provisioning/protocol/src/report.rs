// SPDX-License-Identifier: Apache-2.0
//! What a server tells HQ.

use crate::ids::{Epoch, NodeSlot, VmName};
use crate::peer::{Path, PeerState};
use crate::template::TemplateRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most events in one report; older ones wait for the next.
pub const REPORT_EVENTS_MAX: usize = 100;

/// `POST /v1/agent/report`: the server's whole status, and what happened since the last one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Random at each boot of the agent.
    pub boot: u64,
    /// Counts up within `boot`; HQ drops what it has seen.
    pub seq: u64,
    /// The status now.
    pub status: ServerStatus,
    /// Events since the last accepted report, oldest first.
    pub events: Vec<Event>,
}

/// What HQ answers to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// Highest `seq` HQ has stored for this `boot`.
    pub seq: u64,
    /// HQ's clock, seconds since 1970.
    pub server_time_s: u64,
}

/// A server's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Agent version.
    pub agent: String,
    /// OS image version.
    pub image: String,
    /// Seconds since the server booted.
    pub uptime_s: u64,
    /// WireGuard public key, base64.
    pub wg_public_key: String,
    /// LAN addresses, at most 4.
    pub lan_addresses: Vec<String>,
    /// Desired-state revision carried out or being carried out.
    pub revision: u64,
    /// The pair as this server sees it.
    pub pair: PairStatus,
    /// VMs as this server sees them.
    pub vms: Vec<VmStatus>,
    /// Templates whole on this server.
    pub templates: Vec<TemplateRef>,
    /// Template bytes fetched over the WAN since the server was enrolled.
    pub wan_bytes: u64,
    /// Template bytes copied from the peer since the server was enrolled.
    pub peer_bytes: u64,
    /// What stands in the way, in words; the first is shown as "what to do now".
    pub problems: Vec<String>,
}

/// The pair as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatus {
    /// This server's state.
    pub state: PeerState,
    /// Its epoch.
    pub epoch: Epoch,
    /// Who holds every acknowledged write.
    pub in_sync: BTreeSet<NodeSlot>,
    /// Paths on which the peer is heard.
    pub paths: BTreeSet<Path>,
    /// The path replication uses.
    pub replication: Option<Path>,
    /// Resync progress in percent, while there is one.
    pub resync_percent: Option<u8>,
    /// Why the pair is in this state, in one line.
    pub cause: String,
}

/// A VM as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Name.
    pub name: VmName,
    /// The template it is made from.
    pub template: TemplateRef,
    /// What it is doing here.
    pub phase: VmPhase,
    /// Detail for a person: download progress, an error.
    #[serde(default)]
    pub detail: String,
}

/// What a VM is doing on one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmPhase {
    /// The template is being fetched.
    Fetching,
    /// Volumes are being made.
    Preparing,
    /// Ready here, running on the peer (or about to).
    Standby,
    /// QEMU is being started.
    Starting,
    /// Running here, not yet proved healthy.
    Running,
    /// Running here, the probe answers.
    Healthy,
    /// Running here, its disks frozen.
    Frozen,
    /// Should run here and does not; `detail` says why.
    Failed,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970 on the server's clock.
    pub at_ms: u64,
    /// Stable code, such as `enrolled`, `vm_started`, `peer_lost`, `grant`, `takeover`.
    pub code: String,
    /// One line for a person.
    pub text: String,
}
