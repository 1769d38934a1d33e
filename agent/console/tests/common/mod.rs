// SPDX-License-Identifier: Apache-2.0
//! Situations a server can be in, as the agent and the machine would report them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use agent_console::facts::{Facts, Sight};
use agent_console::machine::{Disk, Machine, Nic};
use agent_console::screen::Screen;
use agent_console::view::{Theme, to_text, view};
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName, TemplateName, VmName};
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::{Event, PairStatus, ServerStatus, VmPhase, VmStatus};
use provisioning_protocol::status::{Enrolment, LocalStatus, OlderData, PeerGlance};
use provisioning_protocol::template::{TemplateRef, TemplateVersion};

/// Milliseconds since boot at which all frames are drawn.
pub const NOW_MS: u64 = 93_784_000;
/// 2026-11-22 09:41:07 UTC.
pub const WALL_MS: u64 = 1_795_340_467_000;

/// A machine with both NICs and one data disk.
pub fn machine() -> Machine {
    let nic = |name: &str, bus: &str, mac: &str, address: &str| Nic {
        name: name.into(),
        bus: bus.into(),
        mac: mac.into(),
        link: true,
        speed: Some(1000),
        addresses: vec![address.into()],
    };
    let disk = |name: &str, gib: u64, model: &str, removable| Disk {
        name: name.into(),
        bytes: gib << 30,
        model: model.into(),
        removable,
    };
    Machine {
        boot_ms: NOW_MS,
        wall_ms: WALL_MS,
        serial: "CZJ4120XK7".into(),
        product: "Acme Branch 220".into(),
        nics: vec![
            nic("eno1", "0000:01:00.0", "52:54:00:12:0a:01", "10.31.7.21"),
            nic("eno2", "0000:01:00.1", "52:54:00:12:0a:02", "169.254.77.1"),
        ],
        disks: vec![
            disk("sda", 240, "INTEL SSDSC2KB24", false),
            disk("sdb", 1788, "SAMSUNG MZ7L31T9", false),
        ],
        vm_units: vec!["parts-counter".into()],
        agent_process: Some(true),
    }
}

/// A VM in a phase.
pub fn vm(name: &str, phase: VmPhase) -> VmStatus {
    VmStatus {
        name: VmName::new(name).unwrap(),
        template: TemplateRef {
            name: TemplateName::new("parts-counter").unwrap(),
            version: TemplateVersion(3),
        },
        phase,
        detail: String::new(),
    }
}

/// A healthy server A of an enrolled pair.
pub fn well() -> LocalStatus {
    let event = |minute: u64, code: &str, text: &str| Event {
        at_ms: WALL_MS - minute * 60_000,
        code: code.into(),
        text: text.into(),
    };
    LocalStatus {
        written_boot_ms: NOW_MS - 400,
        serial: "CZJ4120XK7".into(),
        fingerprint: "7F3A-91C0-22DE-B8A4-0C5D-E661-48F9-13B7".into(),
        enrolment: Enrolment::Done,
        site: Some(SiteName::new("muenchen-12").unwrap()),
        slot: Some(NodeSlot::A),
        hq_url: "https://hq.example:443".into(),
        hq_contact_age_s: Some(2),
        hq_error: String::new(),
        clock_trusted: true,
        server: ServerStatus {
            agent: "0.1.0".into(),
            image: "0.1.0".into(),
            uptime_s: NOW_MS / 1000,
            wg_public_key: String::new(),
            lan_addresses: vec!["10.31.7.21".into()],
            revision: 7,
            pair: pair(PeerState::Pair),
            vms: vec![vm("parts-counter", VmPhase::Healthy)],
            templates: Vec::new(),
            wan_bytes: 0,
            peer_bytes: 0,
            problems: Vec::new(),
        },
        peer: Some(PeerGlance { state: "PAIR".into(), age_ms: 180, running: 0 }),
        disks: vec![
            "/dev/sda 240 GiB INTEL SSDSC2KB24: left alone: in use by this server's system".into(),
            "/dev/sdb 1788 GiB SAMSUNG MZ7L31T9: in use for VM volumes".into(),
        ],
        older_data: None,
        diverged: false,
        events: vec![
            event(34, "enrolled", "Enrolled as server A of site muenchen-12"),
            event(31, "vm_started", "parts-counter started from parts-counter@3"),
            event(30, "vm_healthy", "parts-counter answers its health probe"),
        ],
    }
}

/// The pair in a state, with what goes with it.
pub fn pair(state: PeerState) -> PairStatus {
    let healthy = state == PeerState::Pair;
    PairStatus {
        state,
        epoch: Epoch(4),
        in_sync: NodeSlot::BOTH.into_iter().collect(),
        paths: if healthy { Path::BOTH.into_iter().collect() } else { Default::default() },
        replication: healthy.then_some(Path::Cable),
        resync_percent: None,
        cause: if healthy { "Both servers are in sync.".into() } else { String::new() },
    }
}

/// A healthy server that differs.
pub fn but(change: impl FnOnce(&mut LocalStatus)) -> LocalStatus {
    let mut status = well();
    change(&mut status);
    status
}

/// A server that is not enrolled yet.
pub fn new_server(enrolment: Enrolment, hq_error: &str) -> LocalStatus {
    but(|status| {
        status.enrolment = enrolment;
        status.site = None;
        status.slot = None;
        status.hq_error = hq_error.into();
        status.hq_contact_age_s = None;
        status.server.pair = pair(PeerState::Boot);
        status.server.pair.epoch = Epoch(0);
        status.server.vms.clear();
        status.peer = None;
        status.clock_trusted = false;
        status.events.clear();
        status.disks = vec!["/dev/sdb 1788 GiB SAMSUNG MZ7L31T9: blank".into()];
    })
}

/// Facts as read just now from a server with this status.
pub fn facts(status: LocalStatus) -> Facts {
    facts_on(status, &machine())
}

/// The same on another machine.
pub fn facts_on(status: LocalStatus, machine: &Machine) -> Facts {
    Facts::new(Sight::Said(Box::new(status)), "0.1.0", machine)
}

/// Facts of a server whose agent said something else, or nothing.
pub fn facts_of(sight: Sight) -> Facts {
    Facts::new(sight, "0.1.0", &machine())
}

/// A frame as text.
pub fn draw(screen: &Screen, columns: u16, rows: u16) -> String {
    to_text(&view(screen, Theme::PLAIN, columns, rows))
}

/// A frame of the size every terminal has.
pub fn overview(facts: Facts) -> String {
    draw(&Screen::new(facts), 80, 24)
}

/// A server whose peer was lost in the middle of a resync onto it.
pub fn half_copied() -> LocalStatus {
    let mut status = well();
    status.server.pair = pair(PeerState::Wait);
    status.server.pair.cause = "Out of sync: waiting for the other server.".into();
    status.server.vms[0].phase = VmPhase::Standby;
    status.older_data = Some(OlderData { vms: 1, holds_ms: WALL_MS - 3_600_000 });
    status.peer.as_mut().unwrap().age_ms = 3_100;
    status
}

/// A server that went on by a wrong word, and meets the other one, which did, too.
pub fn diverged() -> LocalStatus {
    let mut status = well();
    status.server.pair = pair(PeerState::Solo);
    status.server.pair.paths = Path::BOTH.into();
    status.server.pair.cause = "Going on alone; the other server is out of sync.".into();
    status.server.problems = vec!["The data on the two servers has diverged.".into()];
    status.peer.as_mut().unwrap().state = "solo".into();
    status.diverged = true;
    status
}

/// A server whose peer is lost and whose witness does not answer.
pub fn frozen() -> LocalStatus {
    let mut status = well();
    status.server.pair = pair(PeerState::Suspect);
    status.server.pair.cause =
        "Frozen: the other server is lost and the witness at HQ does not answer.".into();
    status.server.vms[0].phase = VmPhase::Frozen;
    status.peer.as_mut().unwrap().age_ms = 3_100;
    status
}
