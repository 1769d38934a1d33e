// SPDX-License-Identifier: Apache-2.0
//! The heart of a server: decides which of two servers may run VMs, and never does anything.
//!
//! [`Input`]s (facts) go in, [`Effect`]s (orders) come out of [`Core::step`]. No clock, no file,
//! no socket, no randomness in here: the same inputs give the same effects.
//!
//! ```text
//!                     link up, peer heard at my epoch
//!            ┌──────────────────────────────────────────────┐
//!            │                                              v
//!  BOOT ──> SUSPECT <──────────── link lost ──────────────  PAIR
//!   │        │  │  │                                        ^ │
//!   │        │  │  └── witness grants, or peer yielded ──┐  │ │ peer alone at a
//!   │        │  │                                        v  │ │ higher epoch
//!   │        │  └─ peer or record ahead, or I yield    SOLO │ v
//!   │        v                                           │  │ LOSER
//!   │      LOSER ── VMs and volumes released ──> WAIT    └──┘  │
//!   │                                             │  peer back │
//!   └── no vote ──> WAIT <────────────────────────┼─ in sync ──┘
//!                     └── peer, in sync, takes me back ──> PAIR
//! ```
//!
//! Which state a server is in follows from what it has on disk ([`DurableState`]) and from the
//! link; the rules only ever change what is on disk, and nothing that rests on a change is said
//! or done before [`Input::Persisted`]. RESYNC is not a state of its own but what any connected
//! state is called while a disk is being brought up to date.
//!
//! | file | rules |
//! | --- | --- |
//! | `settle` | R1 yield, R2 grant, R3 lose, R4 join, keeping what the peer yielded |
//! | `suspect` | R1 who yields, R2 and R9 when to ask the witness |
//! | `tie` | R5 where the tie-break lies, R2 for its holder |
//! | `local` | R5 and R10 between a witness at HQ and one on site |
//! | `solo` | R6 taking over the peer's VMs, R9 recorded SOLO |
//! | `declare` | R8, an operator's word that the peer is off |
//! | `restore` | an operator's word to go on with older data |
//! | `give_up` | an operator's word that the other server's data counts |
//! | `flap` | R12, a peer that leaves again and again |
//! | `bmc` | R7, the peer's power switched off and on again |
//! | `loser` | helper answers, eviction |
//! | `witness`, `ask` | R10, claims, publishing |
//! | `authority` | R11, the watchdog lease |
//! | `moves` | drains, rebalancing: planned moves of VMs |
//! | `vms`, `paths`, `talk`, `peer` | VMs, path switch, messages out and in |
//! | `table` | every change of state there is |
//! | `bounds` | states and messages no honest server makes |
//! | `invariants` | what must hold after every step |
//! | `why` | states and causes in words |

mod ask;
mod authority;
mod bmc;
mod bounds;
mod config;
mod declare;
mod effect;
mod flap;
mod give_up;
mod handover;
mod input;
mod invariants;
mod local;
mod loser;
mod moves;
mod paths;
mod peer;
mod restore;
mod settle;
mod solo;
mod state;
mod suspect;
mod table;
mod talk;
mod tie;
mod vms;
mod why;
mod witness;

pub use config::Config;
pub use effect::{Cause, Effect, HelperCode, WitnessAt};
pub use input::{BootFacts, DesiredVm, Disk, Input, LinkSummary, VmRun, VmSet};
pub use moves::Placement;
pub use state::{DurableState, Millis, Tie, WitnessMark};
pub use table::diagram;
pub use why::Status;

use loser::Helper;
use peer::{PeerFacts, PeerView};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::Path;
use settle::{Pending, Reason};
use std::collections::BTreeMap;
use vms::Vms;
use witness::WitnessView;

/// Where the server stands; see the diagram above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Boot,
    Pair,
    Suspect,
    Solo,
    Loser,
    Wait,
}

/// One server's decisions.
#[derive(Debug, Clone, Hash)]
pub struct Core {
    config: Config,
    now: Millis,
    out: Vec<Effect>,

    booted: bool,
    boot_at: Millis,
    /// The end of the last long pause between two inputs: the agent or its server hung.
    woke_at: Option<Millis>,
    /// No QEMU was found at boot and nothing has been decided since: a cold start.
    cold: bool,
    durable: DurableState,
    pending: Option<Pending>,
    next_token: u64,

    mode: Mode,
    link: Option<LinkSummary>,
    was_up: bool,
    ever_up: bool,
    link_up_since: Millis,
    link_down_since: Millis,
    peer: PeerView,
    /// The witness that counts.
    witness: WitnessView,
    /// The other one, which is only read.
    spare: WitnessView,
    /// Whether HQ has set up a witness on site.
    local_set: Option<bool>,
    /// The witness was asked for a grant at the present epoch.
    claimed: bool,
    /// The peer was heard at this epoch, both in sync: then both have it on disk.
    both_at: Option<provisioning_protocol::ids::Epoch>,

    vms: Vms,
    desired_known: bool,
    helpers: BTreeMap<u64, Helper>,
    evicting: Option<Vec<provisioning_protocol::ids::VmName>>,
    loser_since: Option<Millis>,
    reset: bool,

    yields: suspect::Yields,
    watchdog: Option<bool>,
    armed_at: Option<Millis>,
    renewed_at: Option<Millis>,
    flaps: flap::Flaps,
    bmc: bmc::Bmc,
    declared_at: Option<Millis>,
    restore: restore::Restore,
    give_up: give_up::GiveUp,
    paths: paths::Paths,
    reconnected_at: Option<Millis>,
    sent_at: Option<Millis>,
    sent: Option<talk::Gist>,
    told: why::Told,
    moves: moves::Moves,
}

impl Core {
    /// A core that has not booted; the first input must be [`Input::Boot`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (slot, nonce) = (config.slot, config.nonce);
        Self {
            config,
            now: Millis(0),
            out: Vec::new(),
            booted: false,
            boot_at: Millis(0),
            woke_at: None,
            cold: true,
            durable: DurableState::fresh(slot),
            pending: None,
            next_token: 0,
            mode: Mode::Boot,
            link: None,
            was_up: false,
            ever_up: false,
            link_up_since: Millis(0),
            link_down_since: Millis(0),
            peer: PeerView::default(),
            witness: WitnessView::new(slot, WitnessAt::Hq, nonce),
            spare: WitnessView::new(slot, WitnessAt::Local, nonce),
            local_set: None,
            claimed: false,
            both_at: None,
            vms: Vms::default(),
            desired_known: false,
            helpers: BTreeMap::new(),
            evicting: None,
            loser_since: None,
            reset: false,
            yields: suspect::Yields::default(),
            watchdog: None,
            armed_at: None,
            renewed_at: None,
            flaps: flap::Flaps::default(),
            bmc: bmc::Bmc::default(),
            declared_at: None,
            restore: restore::Restore::None,
            give_up: give_up::GiveUp::None,
            paths: paths::Paths::default(),
            reconnected_at: None,
            sent_at: None,
            sent: None,
            told: why::Told::default(),
            moves: moves::Moves::default(),
        }
    }

    /// Takes a fact, gives orders. `now` never goes back.
    ///
    /// # Panics
    /// If the first input is not `Boot`, `now` goes back, or an invariant is broken: going on
    /// would be unsafe, and a restarted agent reads its state from disk.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        assert!(now >= self.now, "time went back from {:?} to {now:?}", self.now);
        assert_eq!(
            self.booted,
            !matches!(input, Input::Boot(_)),
            "Boot must be the first input, and only that"
        );
        if self.booted && now.since(self.now) >= authority::STILL_MS {
            self.woke_at = Some(now);
        }
        self.now = now;
        let tick = matches!(input, Input::Tick);
        self.absorb(input);
        self.track();
        self.settle();
        self.update_mode();
        if !self.reset {
            self.drive(tick);
        }
        self.check_invariants();
        std::mem::take(&mut self.out)
    }

    /// The durable state in force (the last one that was persisted).
    #[must_use]
    pub fn durable(&self) -> &DurableState {
        &self.durable
    }

    fn absorb(&mut self, input: Input) {
        let (now, retry_ms) = (self.now, self.config.retry_ms);
        match input {
            Input::Boot(facts) => self.boot(*facts),
            Input::Tick => {}
            Input::PeerHeard { path, boot, seq, body } => {
                self.peer.take(now, path, boot, seq, body);
            }
            Input::LinkChanged(summary) => self.link = Some(summary),
            Input::HelperAsked { id, vm: _, primary } => {
                self.helpers.insert(id, Helper { primary, answer: None, at: now });
            }
            Input::HelperGone { id } => drop(self.helpers.remove(&id)),
            Input::WitnessAnswered(answer) => {
                // Request ids of the two differ.
                if !self.witness.answered(now, answer.clone(), &self.durable) {
                    self.spare.answered(now, answer, &self.durable);
                }
            }
            Input::WitnessUnreachable { request_id } => {
                self.witness.failed(now, request_id, self.config.witness_retry_ms);
                self.spare.failed(now, request_id, self.config.witness_retry_ms);
            }
            Input::Persisted { token } => self.persisted(token),
            Input::Desired(list) => {
                self.desired_known = true;
                self.vms.desired(list);
            }
            Input::Placement(placement) => self.moves.place(placement),
            Input::VolumesReady { vm, ready } => self.vms.ready(&vm, ready),
            Input::VmReceives { vm, ticket } => {
                if self.vms.get(&vm).is_some_and(vms::Vm::receiving) {
                    self.moves.live.receives(vm, ticket);
                }
            }
            Input::VmHanded { vm, ticket, whole } => {
                if whole {
                    self.vms.state(now, &vm, VmRun::Stopped, retry_ms);
                }
                self.moves.live.handed(vm, ticket, whole);
            }
            Input::VmState { vm, state } => self.vms.state(now, &vm, state, retry_ms),
            Input::PromoteDone { vm, ok } => self.vms.promoted(now, &vm, ok, retry_ms),
            Input::DemoteDone { vm, ok } => self.vms.demoted(now, &vm, ok, retry_ms),
            Input::LocalWitness(set) => self.local_set = Some(set),
            Input::OperatorDeclares => self.declared(),
            Input::OperatorRestores => self.restore_asked(),
            Input::VolumesRestored { ok } => self.restored(ok),
            Input::OperatorGivesUp => self.give_up_asked(),
            Input::VolumesGivenUp { ok } => self.given_up(ok),
            Input::BmcConfigured(yes) => self.bmc.configured(yes),
            Input::BmcAnswered { id, off } => self.bmc_answered(id, off),
            Input::OutdateDone { ok } => self.yields.outdate_done(ok),
            Input::EvictDone { ok } => self.evict_done(ok),
            Input::WatchdogArmed(armed) => self.watchdog = Some(armed),
        }
    }

    fn boot(&mut self, facts: BootFacts) {
        self.booted = true;
        self.boot_at = self.now;
        self.link_down_since = self.now;
        self.peer.start(self.now);
        if let Some(durable) = facts.durable.filter(|state| state.is_sound(self.config.slot)) {
            self.durable = durable;
            self.choose_witness();
        }
        for (name, run) in &facts.vms {
            self.vms.found(name, *run);
        }
        self.cold = self.vms.alive().next().is_none();
        self.paths.current = facts.path;
    }

    fn track(&mut self) {
        self.peer.track(self.now, self.config.heard_ms);
        let up = self.link_up();
        if up && !self.was_up {
            self.link_up_since = self.now;
            self.ever_up = true;
        } else if !up && self.was_up {
            self.link_down_since = self.now;
        }
        self.was_up = up;
        self.track_bmc();
        let both = self.facts().is_some_and(|peer| {
            peer.paired() && peer.epoch == self.durable.epoch && self.durable.paired()
        });
        if both {
            self.both_at = Some(self.durable.epoch);
        }
        self.track_moves();
    }

    fn drive(&mut self, tick: bool) {
        self.drive_loser();
        self.drive_give_up();
        self.answer_helpers();
        self.drive_live();
        self.drive_vms();
        self.drive_standby();
        self.drive_paths();
        self.drive_reconnect();
        self.drive_witness();
        self.drive_spare();
        self.drive_bmc();
        self.drive_watchdog();
        if tick {
            self.renew_lease();
        }
        self.tell();
        self.drive_heartbeat();
    }

    /// Connected, as far as there are volumes to connect; without volumes, on speaking terms
    /// (a busy server may be late: there is no data to lose, so it is not rushed).
    fn link_up(&self) -> bool {
        match self.link {
            None => false,
            Some(link) if link.volumes == 0 => {
                self.peer.talking(self.now, self.config.heard_idle_ms)
            }
            Some(link) => link.connected,
        }
    }

    /// Whether this server's disks hold everything it was told to hold.
    fn disks_up_to_date(&self) -> bool {
        self.link.is_some_and(|link| link.volumes == 0 || link.mine == Disk::UpToDate)
    }

    fn peer_disks_up_to_date(&self) -> bool {
        self.link.is_some_and(|link| link.volumes == 0 || link.peers == Disk::UpToDate)
    }

    /// Giving way: decided, or the volumes are being outdated. No pair is made meanwhile.
    fn giving_way(&self) -> bool {
        let decided =
            self.pending.as_ref().is_some_and(|pending| pending.reason == Reason::Yielded);
        decided || self.yields.busy()
    }

    fn facts(&self) -> Option<PeerFacts> {
        self.peer.facts(self.now, self.config.heard_ms, self.config.slot)
    }

    fn me(&self) -> NodeSlot {
        self.config.slot
    }

    /// Alone by right: on disk, and no change under way that ends it.
    fn solo_in_force(&self) -> bool {
        self.durable.solo && self.pending.as_ref().is_none_or(|pending| pending.state.solo)
    }

    /// Both at one epoch, connected, on speaking terms, nobody having asked for more.
    fn pair_confirmed(&self) -> bool {
        let settled = self.pending.as_ref().is_none_or(|pending| pending.reason == Reason::Note);
        settled
            && self.durable.paired()
            && self.was_up
            && self.facts().is_some_and(|peer| {
                peer.mutual
                    && peer.paired()
                    && peer.epoch == self.durable.epoch
                    && peer.at >= self.link_up_since
            })
    }

    fn update_mode(&mut self) {
        let before = self.mode;
        self.mode = self.next_mode();
        debug_assert!(table::allowed(before, self.mode), "{before:?} to {:?}", self.mode);
        if before != self.mode && matches!(self.mode, Mode::Pair | Mode::Solo) {
            self.cold = false;
        }
    }

    fn next_mode(&self) -> Mode {
        let listening = self.now.since(self.boot_at) < self.config.listen_ms;
        let unread = self.link.is_none();
        if self.mode == Mode::Boot && (unread || (listening && self.facts().is_none())) {
            return Mode::Boot;
        }
        if self.durable.solo {
            return self.solo_mode();
        }
        if self.evicting.is_some() {
            return Mode::Loser;
        }
        if !self.durable.votes() {
            let left = self.vms.here().next().is_some() || !self.helpers.is_empty();
            return if left { Mode::Loser } else { Mode::Wait };
        }
        if !self.was_up {
            return Mode::Suspect;
        }
        let in_step = self.pair_confirmed()
            && !self.claimed
            && self.facts().is_some_and(|peer| !peer.claimed && peer.link_up)
            && self.disks_up_to_date()
            && self.peer_disks_up_to_date();
        let was = matches!(self.mode, Mode::Pair | Mode::Solo);
        if was || in_step { Mode::Pair } else { Mode::Suspect }
    }
}

/// The path replication prefers.
const PREFERRED: Path = Path::Cable;
