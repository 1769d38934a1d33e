// SPDX-License-Identifier: Apache-2.0
//! The operator's API of HQ: what the command line and the dashboard use.
//!
//! All under `/v1`, `Authorization: Bearer <token>`, JSON in and out, errors as
//! [`crate::problem::Problem`]. Writes refuse unknown fields.

use crate::ids::{BlueprintName, DeviceId, NodeSlot, SiteName, VmName};
use crate::report::{Event, ServerStatus};
use crate::template::{TemplateRef, VmSpec};
use crate::witness::WitnessRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `PUT /v1/blueprints/{name}` and the YAML file behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blueprint {
    /// Name.
    pub name: BlueprintName,
    /// VMs of each site of this class, 1–32.
    pub vms: Vec<BlueprintVm>,
}

/// One VM of a blueprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlueprintVm {
    /// Name within each site.
    pub name: VmName,
    /// Template and version.
    pub template: TemplateRef,
    /// Preferred server; spread by index when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<NodeSlot>,
    /// Defaults for the template's variables; a site's own values win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
}

/// `POST /v1/sites` and the YAML file behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSite {
    /// Name.
    pub name: SiteName,
    /// Which VMs it runs.
    pub blueprint: BlueprintName,
    /// Site values: VM name, then variable, then value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<VmName, BTreeMap<String, String>>,
}

/// Answer to `POST /v1/sites` and to `POST /v1/sites/{site}/claims` (which voids the old codes):
/// the only time the codes are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimCodes {
    /// The site.
    pub site: SiteName,
    /// One code for each slot still empty, in groups of four.
    pub codes: BTreeMap<NodeSlot, String>,
    /// Seconds since 1970 after which they are void.
    pub expires_s: u64,
}

/// `GET /v1/sites/{site}`; `GET /v1/sites` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Name.
    pub name: SiteName,
    /// Blueprint.
    pub blueprint: BlueprintName,
    /// Desired-state revision.
    pub revision: u64,
    /// Servers, by slot.
    pub servers: Vec<ServerView>,
    /// VMs the blueprint names.
    pub vms: Vec<VmView>,
    /// The witness record.
    pub witness: WitnessRecord,
    /// The server that is to run no VM: `PUT` and `DELETE /v1/sites/{site}/servers/{slot}/drain`.
    #[serde(default)]
    pub drained: Option<NodeSlot>,
    /// Whether VMs go back to their homes: `PUT` and `DELETE /v1/sites/{site}/rebalance`.
    #[serde(default)]
    pub rebalance: bool,
}

/// A server as HQ sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its place.
    pub slot: NodeSlot,
    /// Its identity, once enrolled.
    pub device_id: Option<DeviceId>,
    /// Serial number, once enrolled.
    pub serial: String,
    /// Seconds since HQ last heard from it.
    pub last_seen_age_s: Option<u64>,
    /// Its last report.
    pub status: Option<ServerStatus>,
}

/// A VM of a site as HQ sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmView {
    /// Name.
    pub name: VmName,
    /// Template assigned.
    pub template: TemplateRef,
    /// Server on which it was last reported running.
    pub runs_on: Option<NodeSlot>,
    /// Whether its probe answered at the last report.
    pub healthy: bool,
}

/// `GET /v1/templates`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateView {
    /// Name and version.
    pub template: TemplateRef,
    /// Image bytes, unpacked.
    pub image_bytes: u64,
    /// Bytes of all its chunks as stored.
    pub stored_bytes: u64,
    /// What it runs.
    pub vm: VmSpec,
}

/// `GET /v1/events?site=S&after=ID&limit=N`, newest last; also sent by SSE on `/v1/events/stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Counts up.
    pub id: u64,
    /// The site it is about, if any.
    pub site: Option<SiteName>,
    /// The server it came from, if any.
    pub slot: Option<NodeSlot>,
    /// Milliseconds since 1970 at which HQ stored it.
    pub received_ms: u64,
    /// What happened.
    pub event: Event,
}
