// SPDX-License-Identifier: Apache-2.0
//! `/run/forecourt/status.json`: all that the recovery console needs to draw.

use crate::ids::{NodeSlot, SiteName};
use crate::report::{Event, ServerStatus};
use serde::{Deserialize, Serialize};

/// Where the agent writes [`LocalStatus`], atomically, at least once a second while it lives.
pub const STATUS_PATH: &str = "/run/forecourt/status.json";

/// The agent's view of this server, for the console and for the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// Milliseconds since boot (`CLOCK_BOOTTIME`) at which this was written: tells a dead agent.
    pub written_boot_ms: u64,
    /// Serial number or SMBIOS UUID.
    pub serial: String,
    /// Device fingerprint: 8 groups of SHA-256 of the device key, for reading aloud.
    pub fingerprint: String,
    /// How far enrolment got.
    pub enrolment: Enrolment,
    /// The site, once known.
    pub site: Option<SiteName>,
    /// The slot, once known.
    pub slot: Option<NodeSlot>,
    /// HQ's address in use.
    pub hq_url: String,
    /// Seconds since HQ last answered, if it ever did since boot.
    pub hq_contact_age_s: Option<u64>,
    /// The error of the last failed contact; empty when HQ answers.
    pub hq_error: String,
    /// Whether the clock is trusted.
    pub clock_trusted: bool,
    /// The same status HQ gets.
    pub server: ServerStatus,
    /// The peer's state and running VMs as last heard, for the one-glance view.
    pub peer: Option<PeerGlance>,
    /// Data disks found and what became of them, one line each.
    pub disks: Vec<String>,
    /// Whole copies from before a resync that did not end, if there is one of all that is half copied:
    /// what [`crate::console::OperatorOrder::UseOlderData`] would go on with.
    #[serde(default)]
    pub older_data: Option<OlderData>,
    /// The data of the two servers has diverged, and the other one goes on alone: what
    /// [`crate::console::OperatorOrder::GiveUpData`] is for.
    #[serde(default)]
    pub diverged: bool,
    /// Last events, newest last, at most 20.
    pub events: Vec<Event>,
}

/// How far enrolment got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// No owner bundle or claim code found.
    NoClaim,
    /// Asking HQ.
    Asking,
    /// HQ knows of us but wants an operator's word.
    Pending,
    /// HQ refused; `hq_error` says why.
    Refused,
    /// Enrolled.
    Done,
}

/// Whole copies from before a resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OlderData {
    /// How many VMs would be put back.
    pub vms: u32,
    /// Every write acknowledged up to then is in all of them, milliseconds since 1970; 0 if that is not
    /// known.
    pub holds_ms: u64,
}

impl OlderData {
    /// One VM more, whose copies hold everything up to that time.
    pub fn add(&mut self, holds_ms: u64) {
        self.holds_ms = if self.vms == 0 { holds_ms } else { self.holds_ms.min(holds_ms) };
        self.vms = self.vms.saturating_add(1);
    }
}

/// The peer in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGlance {
    /// Its state in words.
    pub state: String,
    /// Milliseconds since it was last heard.
    pub age_ms: u64,
    /// Number of VMs it runs.
    pub running: u32,
}
