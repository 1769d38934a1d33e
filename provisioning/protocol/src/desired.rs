// SPDX-License-Identifier: Apache-2.0
//! What HQ wants of a server: the answer to the long poll.

use crate::bmc::Bmc;
use crate::ids::{DeviceId, NodeSlot, SiteName, VmName};
use crate::local_witness::WitnessBox;
use crate::template::TemplateRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/agent/desired?wait=SECONDS`; the ETag is the quoted `revision`.
pub const DESIRED_PATH: &str = "/v1/agent/desired";
/// `POST /v1/agent/report`.
pub const REPORT_PATH: &str = "/v1/agent/report";
/// `POST /v1/agent/witness`: a [`crate::witness::WitnessSwap`], or `GET` for the record.
pub const WITNESS_PATH: &str = "/v1/agent/witness";
/// Longest long poll, seconds.
pub const POLL_WAIT_S_MAX: u32 = 55;

/// The desired state of one site, as one of its servers sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Counts every change of this site at HQ; never goes back.
    pub revision: u64,
    /// HQ's clock, seconds since 1970.
    pub server_time_s: u64,
    /// The site.
    pub site: SiteName,
    /// This server's place.
    pub slot: NodeSlot,
    /// Who belongs to the pair.
    pub roster: Vec<RosterEntry>,
    /// Shared secret of the site's DRBD handshakes, base64 of 32 bytes. (The tunnels encrypt.)
    pub replication_secret: Secret,
    /// VMs to run.
    pub vms: Vec<VmAssignment>,
    /// A witness on site, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_witness: Option<WitnessBox>,
    /// The other server's BMC, if it has one that may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_bmc: Option<Bmc>,
    /// The server that is to run no VM while the other one is in sync.
    #[serde(default)]
    pub drained: Option<NodeSlot>,
    /// Whether VMs go back to their homes once the pair has been well for a while.
    #[serde(default)]
    pub rebalance: bool,
}

impl Desired {
    /// The peer's entry, once it has enrolled and reported its tunnel key.
    #[must_use]
    pub fn peer(&self) -> Option<&RosterEntry> {
        self.roster.iter().find(|entry| entry.slot == self.slot.peer())
    }
}

/// One server of the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Its place.
    pub slot: NodeSlot,
    /// Its identity.
    pub device_id: DeviceId,
    /// WireGuard public key, base64; empty until the server has reported it.
    pub wg_public_key: String,
    /// Addresses on the LAN as last reported, at most 4.
    pub lan_addresses: Vec<String>,
}

/// A VM of the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAssignment {
    /// Name within the site.
    pub name: VmName,
    /// What to run; the catalogue must name it too.
    pub template: TemplateRef,
    /// Where it runs while both servers are well.
    pub home: NodeSlot,
    /// Volume number of each disk of the template, in the manifest's order: DRBD minor, and port
    /// 7700 + number. Unique within the site, stable for the VM's life.
    pub volumes: Vec<u32>,
    /// Index of the VM within the site: MAC address and tap name come from it.
    pub index: u32,
    /// Per-site variables handed to the VM.
    pub variables: BTreeMap<String, String>,
}

/// A secret text: Debug never shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
