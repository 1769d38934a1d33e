// SPDX-License-Identifier: Apache-2.0
//! The facts a screen is drawn from: everything read, judged for age, and made safe to show.
//!
//! [`Facts`] has no text but [`Clean`] text, so nothing that draws can forget to neutralize it.

use crate::machine::Machine;
use crate::text::Clean;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::{Enrolment, LocalStatus, OlderData};

/// A status older than this is a dead agent's: it writes one at least each second.
pub const STALE_MS: u64 = 5_000;
/// Most entries kept of any list.
const LIST_MAX: usize = 64;

/// What was found in place of the agent's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// No file: the agent has not spoken since the server booted.
    Never,
    /// A file that cannot be used, and why.
    Unreadable(String),
    /// The agent's own words.
    Said(Box<LocalStatus>),
}

/// What is known of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// It has not spoken since the server booted.
    Never,
    /// Its status cannot be used, and why.
    Unreadable(Clean),
    /// It spoke, but not lately.
    Silent {
        /// Seconds since it last spoke.
        for_s: u64,
        /// What it said then.
        last: Box<Status>,
    },
    /// It speaks.
    Speaking(Box<Status>),
}

/// Everything a screen is drawn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The agent.
    pub agent: Agent,
    /// Whether the agent's service has a process, where that can be told.
    pub agent_process: Option<bool>,
    /// OS image version.
    pub image: Clean,
    /// Serial number by the firmware.
    pub serial: Clean,
    /// Vendor and product.
    pub product: Clean,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// The machine's clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// Physical NICs: the first is the LAN, the second the cable.
    pub nics: Vec<Nic>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// VMs whose service runs, seen without the agent.
    pub vm_units: Vec<Clean>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Kernel name.
    pub name: Clean,
    /// PCI address.
    pub bus: Clean,
    /// Hardware address.
    pub mac: Clean,
    /// Whether a cable with a live other end is plugged in.
    pub link: bool,
    /// Speed in Mbit/s.
    pub speed: Option<u32>,
    /// Addresses.
    pub addresses: Vec<Clean>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Kernel name.
    pub name: Clean,
    /// Size in bytes.
    pub bytes: u64,
    /// Model.
    pub model: Clean,
    /// Whether it is removable.
    pub removable: bool,
}

/// The agent's words, made safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Serial number the agent enrolled with.
    pub serial: Clean,
    /// Fingerprint of the device key.
    pub fingerprint: Clean,
    /// How far enrolment got.
    pub enrolment: Enrolment,
    /// The site.
    pub site: Option<Clean>,
    /// The place in the pair.
    pub slot: Option<NodeSlot>,
    /// HQ.
    pub hq: Hq,
    /// Whether the clock is trusted.
    pub clock_trusted: bool,
    /// Agent version.
    pub version: Clean,
    /// LAN addresses.
    pub lan: Vec<Clean>,
    /// The pair.
    pub pair: Pair,
    /// The peer as last heard.
    pub peer: Option<Peer>,
    /// VMs.
    pub vms: Vec<Vm>,
    /// Data disks, a line each.
    pub disks: Vec<Clean>,
    /// What the site could go on with if the other server is gone for good.
    pub older_data: Option<OlderData>,
    /// The data of the two servers differs, and the other one goes on alone.
    pub diverged: bool,
    /// Events, newest first.
    pub events: Vec<Event>,
    /// What stands in the way, most pressing first.
    pub problems: Vec<Clean>,
}

impl Status {
    /// Whether VMs stand still here because they may still run on the lost server.
    #[must_use]
    pub fn waits_for_the_others_vms(&self) -> bool {
        let waits = |vm: &Vm| vm.phase == VmPhase::Standby;
        self.pair.state == PeerState::Solo && self.vms.iter().any(waits)
    }
}

/// Contact with HQ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hq {
    /// Its address.
    pub url: Clean,
    /// Seconds since it last answered, if it did since boot.
    pub age_s: Option<u64>,
    /// The last error; empty while it answers.
    pub error: Clean,
}

/// The pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// This server's state.
    pub state: PeerState,
    /// Its epoch.
    pub epoch: u64,
    /// Why it is in this state.
    pub cause: Clean,
    /// Whether the peer is heard over the cable, and over the LAN.
    pub heard: [bool; 2],
    /// The path replication uses.
    pub replication: Option<Path>,
    /// Resync progress.
    pub resync_percent: Option<u8>,
}

/// The peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its state, as it said it.
    pub state: Clean,
    /// Seconds since it was last heard.
    pub age_s: u64,
    /// VMs it runs.
    pub running: u32,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Name.
    pub name: Clean,
    /// Template and version.
    pub template: Clean,
    /// What it does here.
    pub phase: VmPhase,
    /// Detail.
    pub detail: Clean,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Stable code.
    pub code: Clean,
    /// One line.
    pub text: Clean,
}

impl Facts {
    /// Judges and cleans what was read.
    #[must_use]
    pub fn new(sight: Sight, image: &str, machine: &Machine) -> Self {
        Self {
            agent: judge(sight, machine.boot_ms),
            agent_process: machine.agent_process,
            image: Clean::new(image),
            serial: Clean::new(&machine.serial),
            product: Clean::new(&machine.product),
            uptime_s: machine.boot_ms / 1000,
            wall_ms: machine.wall_ms,
            nics: machine.nics.iter().take(LIST_MAX).map(Nic::from).collect(),
            disks: machine.disks.iter().take(LIST_MAX).map(Disk::from).collect(),
            vm_units: cleaned(&machine.vm_units),
        }
    }

    /// The agent's words, lately said or not.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match &self.agent {
            Agent::Speaking(status) | Agent::Silent { last: status, .. } => Some(status),
            Agent::Never | Agent::Unreadable(_) => None,
        }
    }

    /// The agent's words, if it said them just now.
    #[must_use]
    pub fn fresh(&self) -> Option<&Status> {
        match &self.agent {
            Agent::Speaking(status) => Some(status),
            _ => None,
        }
    }
}

fn judge(sight: Sight, now_ms: u64) -> Agent {
    match sight {
        Sight::Never => Agent::Never,
        Sight::Unreadable(reason) => Agent::Unreadable(Clean::new(&reason)),
        Sight::Said(said) => {
            let status = Box::new(Status::from(said.as_ref()));
            // A stamp from the future is of another boot, or forged: as good as none.
            match now_ms.checked_sub(said.written_boot_ms) {
                Some(age_ms) if age_ms <= STALE_MS => Agent::Speaking(status),
                Some(age_ms) => Agent::Silent { for_s: age_ms / 1000, last: status },
                None if said.written_boot_ms - now_ms <= STALE_MS => Agent::Speaking(status),
                None => Agent::Silent { for_s: now_ms / 1000, last: status },
            }
        }
    }
}

fn cleaned(list: &[String]) -> Vec<Clean> {
    list.iter().take(LIST_MAX).map(|text| Clean::new(text)).collect()
}

impl From<&crate::machine::Nic> for Nic {
    fn from(nic: &crate::machine::Nic) -> Self {
        Self {
            name: Clean::new(&nic.name),
            bus: Clean::new(&nic.bus),
            mac: Clean::new(&nic.mac),
            link: nic.link,
            speed: nic.speed,
            addresses: cleaned(&nic.addresses),
        }
    }
}

impl From<&crate::machine::Disk> for Disk {
    fn from(disk: &crate::machine::Disk) -> Self {
        Self {
            name: Clean::new(&disk.name),
            bytes: disk.bytes,
            model: Clean::new(&disk.model),
            removable: disk.removable,
        }
    }
}

impl From<&LocalStatus> for Status {
    fn from(said: &LocalStatus) -> Self {
        let server = &said.server;
        let events = said.events.iter().rev().take(LIST_MAX).map(|event| Event {
            at_ms: event.at_ms,
            code: Clean::new(&event.code),
            text: Clean::new(&event.text),
        });
        let vms = server.vms.iter().take(LIST_MAX).map(|vm| Vm {
            name: Clean::new(vm.name.as_str()),
            template: Clean::new(&vm.template.to_string()),
            phase: vm.phase,
            detail: Clean::new(&vm.detail),
        });
        Self {
            serial: Clean::new(&said.serial),
            fingerprint: Clean::new(&said.fingerprint),
            enrolment: said.enrolment,
            site: said.site.as_ref().map(|site| Clean::new(site.as_str())),
            slot: said.slot,
            hq: Hq {
                url: Clean::new(&said.hq_url),
                age_s: said.hq_contact_age_s,
                error: Clean::new(&said.hq_error),
            },
            clock_trusted: said.clock_trusted,
            version: Clean::new(&server.agent),
            lan: cleaned(&server.lan_addresses),
            pair: Pair {
                state: server.pair.state,
                epoch: server.pair.epoch.0,
                cause: Clean::new(&server.pair.cause),
                heard: Path::BOTH.map(|path| server.pair.paths.contains(&path)),
                replication: server.pair.replication,
                resync_percent: server.pair.resync_percent,
            },
            peer: said.peer.as_ref().map(|peer| Peer {
                state: Clean::new(&peer.state),
                age_s: peer.age_ms / 1000,
                running: peer.running,
            }),
            vms: vms.collect(),
            disks: cleaned(&said.disks),
            older_data: said.older_data,
            diverged: said.diverged,
            events: events.collect(),
            problems: cleaned(&server.problems),
        }
    }
}
