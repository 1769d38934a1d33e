// SPDX-License-Identifier: Apache-2.0
//! The hub: workers say what they see, readers take a snapshot or wait for a change.

use super::events::{Events, QUEUED_MAX};
use super::problems::{Concern, Problems};
use crate::durable::causes::Causes;
use crate::durable::recorder::Recorder;
use crate::hq::client::error_chain;
use crate::identity::{clock, hardware};
use agent_core::Status as CoreStatus;
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName, VmName};
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::{Event, PairStatus, ServerStatus, VmPhase, VmStatus};
use provisioning_protocol::status::{Enrolment, LocalStatus, OlderData, PeerGlance};
use provisioning_protocol::template::TemplateRef;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What does not change while the agent runs.
#[derive(Debug, Clone, Default)]
pub struct Fixed {
    /// Serial number or SMBIOS UUID.
    pub serial: String,
    /// Device fingerprint.
    pub fingerprint: String,
    /// OS image version.
    pub image: String,
    /// WireGuard public key.
    pub wg_public_key: String,
}

/// Everything that may change.
#[derive(Debug)]
pub struct State {
    /// How far enrolment got.
    pub enrolment: Enrolment,
    /// The site, once known.
    pub site: Option<SiteName>,
    /// The slot, once known.
    pub slot: Option<NodeSlot>,
    /// HQ's address in use.
    pub hq_url: String,
    /// When HQ last answered, milliseconds since boot.
    pub hq_contact_ms: Option<u64>,
    /// Error of the last failed contact.
    pub hq_error: String,
    /// Whether the clock is trusted.
    pub clock_trusted: bool,
    /// LAN addresses.
    pub lan_addresses: Vec<String>,
    /// Desired-state revision carried out or being carried out.
    pub revision: u64,
    /// The pair.
    pub pair: Option<CoreStatus>,
    /// Resync progress.
    pub resync_percent: Option<u8>,
    /// VMs.
    pub vms: BTreeMap<VmName, VmStatus>,
    /// Templates whole on this server.
    pub templates: Vec<TemplateRef>,
    /// Template bytes fetched over the WAN.
    pub wan_bytes: u64,
    /// Template bytes copied from the peer.
    pub peer_bytes: u64,
    /// The peer: its state, running VMs, and when it was heard (milliseconds since boot).
    pub peer: Option<(PeerState, u32, u64)>,
    /// Disks, one line each.
    pub disks: Vec<String>,
    /// What the site could go on with if the other server is gone for good.
    pub older_data: Option<OlderData>,
    problems: Problems,
    events: Events,
}

impl Default for State {
    fn default() -> Self {
        Self {
            enrolment: Enrolment::NoClaim,
            site: None,
            slot: None,
            hq_url: String::new(),
            hq_contact_ms: None,
            hq_error: String::new(),
            clock_trusted: false,
            lan_addresses: Vec::new(),
            revision: 0,
            pair: None,
            resync_percent: None,
            vms: BTreeMap::new(),
            templates: Vec::new(),
            wan_bytes: 0,
            peer_bytes: 0,
            peer: None,
            disks: Vec::new(),
            older_data: None,
            problems: Problems::default(),
            events: Events::default(),
        }
    }
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    fixed: Fixed,
    state: Arc<Mutex<State>>,
    recorder: Recorder,
    changed: watch::Sender<u64>,
}

impl Hub {
    /// A hub that knows nothing yet but what the last run of the agent noted.
    #[must_use]
    pub fn new(fixed: Fixed, causes: Causes) -> Self {
        let noted = causes.last(QUEUED_MAX);
        let events = Events::recalled(noted, causes.sent().as_ref());
        let state = Arc::new(Mutex::new(State { events, ..State::default() }));
        let changed = watch::Sender::new(0);
        let (shared, tell) = (state.clone(), changed.clone());
        let recorder = Recorder::start(causes, move |written| {
            if not_kept(&mut lock(&shared), written) {
                tell.send_modify(next);
            }
        });
        Self { fixed, state, recorder, changed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits for changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes the state and tells readers.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.tell();
    }

    /// Changes what need not be told at once (ages, counters).
    pub fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    fn tell(&self) {
        self.changed.send_modify(next);
    }

    /// Sets or clears one object's problem.
    pub fn problem(&self, concern: Concern, object: &str, words: Option<String>) {
        self.problems(concern, object, words.into_iter().collect());
    }

    /// Sets or clears one object's problems.
    /// Tells whether something changed.
    pub fn problems(&self, concern: Concern, object: &str, words: Vec<String>) -> bool {
        if let Some(first) = words.first() {
            tracing::debug!(?concern, object, first, "problem");
        }
        let changed = self.lock().problems.set(concern, object, words);
        if changed {
            self.tell();
        }
        changed
    }

    /// Notes an event: journal, console, HQ, and the causes file. Does not wait for the disk.
    pub fn event(&self, code: &str, text: impl Into<String>) {
        let text: String = text.into().chars().take(500).collect();
        tracing::info!(code, text, "event");
        let at_ms = self.lock().events.apart(clock::now_ms());
        let event = Event { at_ms, code: code.to_owned(), text };
        let queued = self.recorder.keep(event.clone());
        {
            let mut state = self.lock();
            if queued.is_err() {
                not_kept(&mut state, queued);
            }
            state.events.push(event);
        }
        self.tell();
    }

    /// Waits until the events so far are in the causes file; `false` if the disk takes longer.
    #[must_use]
    pub fn settle(&self, limit: Duration) -> bool {
        self.recorder.settle(limit)
    }

    /// A VM's phase; says nothing if it did not change.
    pub fn vm(&self, name: &VmName, template: &TemplateRef, phase: VmPhase, detail: &str) {
        let detail: String = detail.chars().take(300).collect();
        let status = VmStatus { name: name.clone(), template: template.clone(), phase, detail };
        let old = self.lock().vms.insert(name.clone(), status.clone());
        if old.as_ref() != Some(&status) {
            self.tell();
        }
    }

    /// HQ answered.
    pub fn hq_answered(&self, url: &str) {
        let changed = {
            let mut state = self.lock();
            state.hq_contact_ms = Some(hardware::boot_ms());
            let changed = !state.hq_error.is_empty() || state.hq_url != url;
            state.hq_error.clear();
            url.clone_into(&mut state.hq_url);
            state.problems.set(Concern::Hq, "", Vec::new()) || changed
        };
        if changed {
            self.tell();
        }
    }

    /// HQ did not answer.
    pub fn hq_failed(&self, url: &str, error: &str) {
        let changed = {
            let mut state = self.lock();
            let changed = state.hq_error != error;
            error.clone_into(&mut state.hq_error);
            url.clone_into(&mut state.hq_url);
            state.problems.set(Concern::Hq, "", vec![error.to_owned()]) || changed
        };
        if changed {
            self.tell();
        }
    }

    /// Events for HQ and the mark to confirm them with.
    #[must_use]
    pub fn batch(&self) -> (Vec<Event>, u64) {
        self.lock().events.batch()
    }

    /// HQ has everything up to the mark. Tells whether more wait.
    pub fn confirm(&self, mark: u64) -> bool {
        let mut state = self.lock();
        if let Some(last) = state.events.confirm(mark)
            && let Err(error) = self.recorder.causes().mark_sent(&last)
        {
            tracing::warn!(error = error_chain(&error), "what HQ has is not noted");
        }
        state.events.waiting()
    }

    /// Reads something.
    pub fn read<T>(&self, get: impl FnOnce(&State) -> T) -> T {
        get(&self.lock())
    }

    /// The status HQ gets.
    #[must_use]
    pub fn server(&self) -> ServerStatus {
        self.server_of(&self.lock())
    }

    fn server_of(&self, state: &State) -> ServerStatus {
        let mut problems = state.problems.lines();
        if let Some(pair) = &state.pair {
            problems.extend(pair.problems.iter().cloned());
            problems.truncate(20);
        }
        ServerStatus {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            image: self.fixed.image.clone(),
            uptime_s: hardware::boot_ms() / 1000,
            wg_public_key: self.fixed.wg_public_key.clone(),
            lan_addresses: state.lan_addresses.clone(),
            revision: state.revision,
            pair: pair_status(state),
            vms: state.vms.values().cloned().collect(),
            templates: state.templates.clone(),
            wan_bytes: state.wan_bytes,
            peer_bytes: state.peer_bytes,
            problems,
        }
    }

    /// The status the console gets.
    #[must_use]
    pub fn local(&self) -> LocalStatus {
        let now = hardware::boot_ms();
        let state = self.lock();
        LocalStatus {
            written_boot_ms: now,
            serial: self.fixed.serial.clone(),
            fingerprint: self.fixed.fingerprint.clone(),
            enrolment: state.enrolment,
            site: state.site.clone(),
            slot: state.slot,
            hq_url: state.hq_url.clone(),
            hq_contact_age_s: state.hq_contact_ms.map(|at| now.saturating_sub(at) / 1000),
            hq_error: state.hq_error.clone(),
            clock_trusted: state.clock_trusted,
            server: self.server_of(&state),
            peer: state.peer.map(|(peer, running, at)| PeerGlance {
                state: word(peer),
                age_ms: now.saturating_sub(at),
                running,
            }),
            disks: state.disks.clone(),
            older_data: state.older_data,
            diverged: state.pair.as_ref().is_some_and(|pair| pair.may_give_up),
            events: state.events.shown(),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next(n: &mut u64) {
    *n = n.wrapping_add(1);
}

/// Whether people are told otherwise than before that events are kept.
fn not_kept(state: &mut State, written: io::Result<()>) -> bool {
    let words = written.err().map(|error| {
        tracing::warn!(%error, "event not kept");
        format!("The state partition cannot be written: what happens is not kept ({error})")
    });
    state.problems.set(Concern::State, "causes", words.into_iter().collect())
}

fn word(state: PeerState) -> String {
    serde_json::to_value(state)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn pair_status(state: &State) -> PairStatus {
    match &state.pair {
        Some(pair) => PairStatus {
            state: pair.state,
            epoch: pair.epoch,
            in_sync: pair.in_sync.clone(),
            paths: pair.paths.clone(),
            replication: Some(pair.replication),
            resync_percent: state.resync_percent,
            cause: pair.cause.clone(),
        },
        None => PairStatus {
            state: PeerState::Boot,
            epoch: Epoch(0),
            in_sync: std::collections::BTreeSet::new(),
            paths: std::collections::BTreeSet::new(),
            replication: None,
            resync_percent: None,
            cause: "not enrolled yet".to_owned(),
        },
    }
}
