// SPDX-License-Identifier: Apache-2.0
//! What the page shows, in words and tones, worked out from the operator's views.

use crate::app::App;
use crate::db::{events, templates};
use crate::operator::views;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::operator::{EventView, ServerView, SiteView, TemplateView, VmView};
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::{ServerStatus, VmPhase};
use std::collections::BTreeSet;

/// A server that was not heard for this long is called silent.
const SILENT_S: u64 = 45;
/// Events shown.
const EVENTS: u32 = 40;
/// Sites shown: those that need attention come first.
const SITES: usize = 100;

/// The whole board.
pub struct Board {
    pub sites: Vec<SiteCard>,
    pub sites_known: usize,
    pub templates: Vec<TemplateRow>,
    pub events: Vec<EventRow>,
    pub servers_heard: usize,
    pub servers_known: usize,
    pub attention: usize,
    pub vms_running: usize,
    pub vms_planned: usize,
}

/// One site.
pub struct SiteCard {
    pub name: String,
    pub blueprint: String,
    pub tone: &'static str,
    pub word: &'static str,
    pub note: String,
    pub a: ServerBox,
    pub b: ServerBox,
    pub link: Link,
    pub vms: Vec<VmRow>,
    pub epoch: u64,
    pub revision: u64,
    pub witness: String,
}

/// One server of the pair.
pub struct ServerBox {
    pub slot: NodeSlot,
    pub serial: String,
    pub tone: &'static str,
    pub word: String,
    pub seen: String,
    pub image: String,
    pub wan: String,
    pub vms: Vec<(String, &'static str)>,
}

/// What lies between the two.
pub struct Link {
    pub tone: &'static str,
    pub word: String,
    pub detail: String,
}

/// One VM.
pub struct VmRow {
    pub name: String,
    pub template: String,
    pub place: String,
    pub tone: &'static str,
    pub word: &'static str,
}

/// One template version.
pub struct TemplateRow {
    pub name: String,
    pub version: u64,
    pub image: String,
    pub stored: String,
    pub used_by: usize,
}

/// One event.
pub struct EventRow {
    pub at: String,
    pub day: String,
    pub place: String,
    pub code: String,
    pub tone: &'static str,
    pub text: String,
}

impl Board {
    /// Reads all that the page shows.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn read(app: &App) -> Result<Self, sqlx::Error> {
        let sites = views::sites(app, None).await?;
        let templates = templates::list(app.db.reader()).await?;
        let events = events::list(app.db.reader(), None, 0, EVENTS).await?;
        Ok(Self::new(&sites, &templates, &events))
    }

    fn new(sites: &[SiteView], templates: &[TemplateView], events: &[EventView]) -> Self {
        let servers = || sites.iter().flat_map(|site| &site.servers);
        let vms = || sites.iter().flat_map(|site| &site.vms);
        let mut cards: Vec<SiteCard> = sites.iter().map(SiteCard::new).collect();
        let attention = cards.iter().filter(|card| matches!(card.tone, "bad" | "warn")).count();
        // Stable: by name within a tone.
        cards.sort_by_key(|card| urgency(card.tone));
        cards.truncate(SITES);
        Self {
            sites_known: sites.len(),
            servers_heard: servers().filter(|server| heard(server)).count(),
            servers_known: servers().filter(|server| server.device_id.is_some()).count(),
            attention,
            vms_running: vms().filter(|vm| vm.runs_on.is_some()).count(),
            vms_planned: vms().count(),
            templates: templates.iter().map(|view| TemplateRow::new(view, sites)).collect(),
            events: events.iter().rev().map(EventRow::new).collect(),
            sites: cards,
        }
    }
}

impl SiteCard {
    fn new(site: &SiteView) -> Self {
        let server = |slot| site.servers.iter().find(|server| server.slot == slot);
        let (tone, word) = verdict(site);
        let freshest = site
            .servers
            .iter()
            .filter(|server| server.status.is_some())
            .min_by_key(|server| server.last_seen_age_s);
        let status = freshest.and_then(|server| server.status.as_ref());
        Self {
            name: site.name.to_string(),
            blueprint: site.blueprint.to_string(),
            tone,
            word,
            note: note(tone, status),
            a: ServerBox::new(NodeSlot::A, server(NodeSlot::A)),
            b: ServerBox::new(NodeSlot::B, server(NodeSlot::B)),
            link: Link::new(site),
            vms: site.vms.iter().map(|vm| VmRow::new(vm, site)).collect(),
            epoch: status.map_or(site.witness.epoch.0, |status| status.pair.epoch.0),
            revision: site.revision,
            witness: witness(site),
        }
    }
}

fn urgency(tone: &str) -> u8 {
    match tone {
        "bad" => 0,
        "warn" => 1,
        "info" => 2,
        "good" => 3,
        _ => 4,
    }
}

/// The site in one word.
fn verdict(site: &SiteView) -> (&'static str, &'static str) {
    let enrolled = site.servers.iter().filter(|server| server.device_id.is_some()).count();
    let states: BTreeSet<PeerState> =
        site.servers.iter().filter(|s| heard(s)).filter_map(state).collect();
    let silent = site.servers.iter().any(|server| server.device_id.is_some() && !heard(server));
    if enrolled == 0 {
        return ("idle", "Waiting for servers");
    }
    if states.is_empty() {
        return if silent { ("bad", "Silent") } else { ("idle", "Starting") };
    }
    if site.vms.iter().any(|vm| vm.runs_on.is_none()) && states.contains(&PeerState::Pair) {
        return ("info", "Starting VMs");
    }
    if states.contains(&PeerState::Solo) {
        return ("warn", "On one server");
    }
    if [PeerState::Suspect, PeerState::Loser].iter().any(|state| states.contains(state)) {
        return ("bad", "Deciding");
    }
    if states.contains(&PeerState::Resync) {
        return ("info", "Catching up");
    }
    if enrolled == 1 {
        return ("info", "One server so far");
    }
    if silent {
        return ("warn", "One server silent");
    }
    if states == BTreeSet::from([PeerState::Pair]) {
        return ("good", "Healthy");
    }
    if states.contains(&PeerState::Wait) { ("bad", "Waiting") } else { ("info", "Starting") }
}

/// The line below the pair: what stands in the way, or why the pair is as it is.
fn note(tone: &str, status: Option<&ServerStatus>) -> String {
    let Some(status) = status else {
        return String::new();
    };
    match status.problems.first() {
        Some(problem) => problem.clone(),
        None if tone == "good" => String::new(),
        None => status.pair.cause.clone(),
    }
}

fn witness(site: &SiteView) -> String {
    let record = &site.witness;
    match record.winner {
        Some(winner) => format!("granted to {winner} at epoch {}", record.epoch),
        None if record.in_sync.is_empty() => "not used yet".to_owned(),
        None => format!("both in sync at epoch {}", record.epoch),
    }
}

impl ServerBox {
    fn new(slot: NodeSlot, server: Option<&ServerView>) -> Self {
        let status = server.and_then(|server| server.status.as_ref());
        let (tone, word) = server_word(server);
        let vms = status.map(|status| status.vms.as_slice()).unwrap_or_default();
        let fresh = server.is_some_and(heard);
        Self {
            slot,
            serial: server.map(|server| server.serial.clone()).unwrap_or_default(),
            tone,
            word,
            seen: server.and_then(|server| server.last_seen_age_s).map(age).unwrap_or_default(),
            image: status.map(|status| status.image.clone()).unwrap_or_default(),
            wan: status.map(|status| bytes(status.wan_bytes)).unwrap_or_default(),
            vms: vms
                .iter()
                .map(|vm| (vm.name.to_string(), if fresh { chip(vm.phase) } else { "idle" }))
                .collect(),
        }
    }
}

fn server_word(server: Option<&ServerView>) -> (&'static str, String) {
    let Some(server) = server.filter(|server| server.device_id.is_some()) else {
        return ("idle", "not enrolled".to_owned());
    };
    let Some(state) = state(server) else {
        return ("info", "enrolled".to_owned());
    };
    if !heard(server) {
        return ("bad", "silent".to_owned());
    }
    let (tone, word) = match state {
        PeerState::Boot => ("info", "starting"),
        PeerState::Pair => ("good", "in pair"),
        PeerState::Resync => ("info", "catching up"),
        PeerState::Suspect => ("bad", "lost its peer"),
        PeerState::Solo => ("warn", "alone"),
        PeerState::Loser => ("bad", "stepping back"),
        PeerState::Wait => ("bad", "waiting"),
        PeerState::Maint => ("info", "maintenance"),
    };
    (tone, word.to_owned())
}

fn chip(phase: VmPhase) -> &'static str {
    match phase {
        VmPhase::Healthy => "good",
        VmPhase::Running | VmPhase::Starting | VmPhase::Fetching | VmPhase::Preparing => "info",
        VmPhase::Standby => "idle",
        VmPhase::Frozen => "warn",
        VmPhase::Failed => "bad",
    }
}

impl Link {
    fn new(site: &SiteView) -> Self {
        let fresh = || site.servers.iter().filter(|s| heard(s)).filter_map(|s| s.status.as_ref());
        let word = |path: Path| match path {
            Path::Cable => "cable",
            Path::Lan => "LAN",
        };
        if fresh().count() == 0 {
            return Self { tone: "idle", word: "no link yet".to_owned(), detail: String::new() };
        }
        if let Some(percent) = fresh().find_map(|status| status.pair.resync_percent) {
            let over = fresh().find_map(|status| status.pair.replication).map_or("", word);
            return Self { tone: "info", word: format!("resync {percent} %"), detail: over.into() };
        }
        let Some(path) = fresh().find_map(|status| status.pair.replication) else {
            let tone =
                if fresh().any(|s| s.pair.state == PeerState::Boot) { "idle" } else { "bad" };
            return Self { tone, word: "no replication".to_owned(), detail: String::new() };
        };
        let paths: BTreeSet<Path> =
            fresh().flat_map(|status| &status.pair.paths).copied().collect();
        let spare = Path::BOTH.into_iter().find(|other| *other != path && paths.contains(other));
        Self {
            tone: if path == Path::Cable { "good" } else { "warn" },
            word: format!("replicating over {}", word(path)),
            detail: match spare {
                Some(spare) => format!("{} ready", word(spare)),
                None => "no second path".to_owned(),
            },
        }
    }
}

impl VmRow {
    fn new(vm: &VmView, site: &SiteView) -> Self {
        let host = vm.runs_on.and_then(|slot| site.servers.iter().find(|s| s.slot == slot));
        let silent = host.is_some_and(|server| !heard(server));
        let (tone, word) = match vm.runs_on {
            None => ("idle", "not running"),
            Some(_) if silent => ("warn", "last known"),
            Some(_) if vm.healthy => ("good", "healthy"),
            Some(_) => ("info", "running"),
        };
        Self {
            name: vm.name.to_string(),
            template: vm.template.to_string(),
            place: vm.runs_on.map_or_else(|| "–".to_owned(), |slot| format!("on {slot}")),
            tone,
            word,
        }
    }
}

impl TemplateRow {
    fn new(view: &TemplateView, sites: &[SiteView]) -> Self {
        let uses = |site: &&SiteView| site.vms.iter().any(|vm| vm.template == view.template);
        Self {
            name: view.template.name.to_string(),
            version: view.template.version.0,
            image: bytes(view.image_bytes),
            stored: bytes(view.stored_bytes),
            used_by: sites.iter().filter(uses).count(),
        }
    }
}

impl EventRow {
    fn new(view: &EventView) -> Self {
        let ms = i64::try_from(view.received_ms).unwrap_or(i64::MAX);
        let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let place = match (&view.site, view.slot) {
            (Some(site), Some(slot)) => format!("{site} / {slot}"),
            (Some(site), None) => site.to_string(),
            _ => "HQ".to_owned(),
        };
        Self {
            at: at.strftime("%H:%M:%S").to_string(),
            day: at.strftime("%Y-%m-%d").to_string(),
            place,
            tone: event_tone(&view.event.code),
            code: view.event.code.clone(),
            text: view.event.text.clone(),
        }
    }
}

fn event_tone(code: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if has(&["fail", "refus", "lost", "loser", "conflict", "error"]) {
        "bad"
    } else if has(&["grant", "takeover", "promoted", "solo", "suspect", "frozen", "retired"]) {
        "warn"
    } else if has(&[
        "vm_started",
        "healthy",
        "pair",
        "ready",
        "done",
        "published",
        "enrol",
        "admit",
    ]) {
        "good"
    } else {
        "info"
    }
}

fn heard(server: &ServerView) -> bool {
    server.last_seen_age_s.is_some_and(|age| age < SILENT_S)
}

fn state(server: &ServerView) -> Option<PeerState> {
    server.status.as_ref().map(|status| status.pair.state)
}

fn age(seconds: u64) -> String {
    match seconds {
        0..2 => "just now".to_owned(),
        2..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn bytes(count: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = KIB * KIB;
    match count {
        0..KIB => format!("{count} B"),
        KIB..MIB => format!("{} KiB", count / KIB),
        _ if count < 10 * MIB => format!("{}.{} MiB", count / MIB, count % MIB * 10 / MIB),
        _ if count < 10 * KIB * MIB => format!("{} MiB", count / MIB),
        _ => format!("{} GiB", count / (KIB * MIB)),
    }
}
