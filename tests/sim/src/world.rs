// SPDX-License-Identifier: Apache-2.0
//! One simulated site: two servers, their volumes, the network, the witness, and one queue of
//! events in simulated time.

use crate::bmc::{self, Bmc, Work};
use crate::drbd::Vol;
use crate::lan::Tap;
use crate::live::{Hand, Incoming};
use crate::local::LocalBox;
use crate::opts::{Less, Mutation, Opts, Stats};
use crate::person::Contacts;
use crate::rng::Rng;
use agent_core::{Core, DurableState, Effect, Input, LinkSummary, Placement, VmRun, WitnessAt};
use agent_watchdog::keeper::{Keeper, State};
use provisioning_protocol::ids::{NodeSlot, VmName};
use provisioning_protocol::peer::{Path, PeerBody};
use provisioning_protocol::witness::{WitnessAnswer, WitnessState, WitnessSwap};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// The kernels and the checks of what lasts are looked at this often.
pub(crate) const KERNEL_MS: u64 = 100;

/// Inputs that wait for a stopped agent, at most; its sockets hold no more.
const BACKLOG_MAX: usize = 500;
/// Orders are drawn beside the faults, so that leaving a fault out does not change them.
const ORDERS: u64 = 0x6d6f_7665_7300_0000;
/// VMs of a site, at most.
const VMS_MAX: usize = 3;

/// Something that will happen. `power` and `agent` are the generations it belongs to: a crash
/// makes the event void.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Tick {
        node: usize,
        agent: u32,
    },
    Kernel,
    Write {
        vm: usize,
    },
    Message {
        to: usize,
        path: Path,
        boot: u64,
        seq: u64,
        body: Arc<PeerBody>,
    },
    WitnessAsked {
        from: usize,
        at: WitnessAt,
        agent: u32,
        request_id: u64,
        swap: Option<WitnessSwap>,
    },
    WitnessAnswered {
        to: usize,
        agent: u32,
        answer: Box<WitnessAnswer>,
    },
    Shell {
        node: usize,
        agent: u32,
        what: Shell,
    },
    Boot {
        node: usize,
        power: u32,
    },
    AgentStart {
        node: usize,
        power: u32,
    },
    Continue {
        node: usize,
        agent: u32,
    },
    Wake {
        node: usize,
        power: u32,
    },
    Fault,
    Heal(Healing),
    MakeVolumes,
    Order,
    Ordered {
        node: usize,
        power: u32,
        placement: Placement,
    },
}

/// Something the shell of a server finishes later.
#[derive(Debug, Clone)]
pub(crate) enum Shell {
    Persisted { token: u64, state: Option<Box<DurableState>> },
    PromoteTry { vm: usize, until: u64, ticket: u32 },
    Demote { vm: usize },
    Started { vm: usize, resume: Option<u64> },
    Stopped { vm: usize },
    Pause { vm: usize },
    Resume { vm: usize },
    Outdate,
    Evict { vms: Vec<usize>, ordered_at: u64 },
    Reconnect,
    Armed(bool),
    AnswerHelper { helper: u64, code: u8 },
    Unreachable { request_id: u64 },
    Bmc(Work),
    Receives { vm: usize },
    Streamed { vm: usize, ticket: u64 },
    Handed { vm: usize, ticket: u64 },
    Kept { vm: usize },
}

/// A link that a fault broke for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Healing {
    Path { path: usize, from: usize },
    Wan { node: usize, reply: bool },
    Replication,
    Witness,
    Local,
    LocalPath,
    LocalSet,
    Watchdog { node: usize },
    SlowDisk { node: usize },
    Bmc { node: usize },
}

/// Who can forget what was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Server,
    Witness,
}

/// A fence-peer helper process.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    pub id: u64,
    pub vm: usize,
    pub losses: u32,
    pub primary: bool,
    pub born_at: u64,
}

/// One server.
#[derive(Clone)]
pub(crate) struct Node {
    pub up: bool,
    pub hung: bool,
    /// When it or its agent last went on after a pause.
    pub woke_at: u64,
    /// What a stopped agent (SIGSTOP) will find when it goes on; its server works meanwhile.
    pub backlog: Option<Vec<Input>>,
    pub power: u32,
    pub agent: u32,
    pub core: Option<Core>,
    pub boot: u64,
    pub seq: u64,
    pub disk: Option<DurableState>,
    pub older_disk: Option<DurableState>,
    pub inflight: Option<Box<DurableState>>,
    /// Power is lost at the next write, with it on disk or not.
    pub dies_at_write: Option<bool>,
    pub route: Path,
    pub keeper: Keeper,
    pub can_arm: bool,
    pub slow_disk: bool,
    pub petted_at: u64,
    pub clock_zero: u64,
    pub vols: Vec<Vol>,
    pub runs: Vec<VmRun>,
    pub first_io: Vec<bool>,
    pub taps: Vec<Tap>,
    pub promote_ticket: Vec<u32>,
    /// QEMUs that wait for a VM's memory, and streams of it to the peer.
    pub incoming: Vec<Option<Incoming>>,
    pub hands: Vec<Option<Hand>>,
    pub helpers: Vec<Helper>,
    pub told_link: Option<LinkSummary>,
    pub bmc: Bmc,
    /// What it last heard of HQ's orders; kept on its disk.
    pub placement: Placement,
}

/// The site.
#[derive(Clone)]
pub(crate) struct World {
    pub now: u64,
    pub rng: Rng,
    pub bmc_rng: Rng,
    pub has_bmc: bool,
    pub opts: Opts,
    pub stats: Stats,
    pub nodes: [Node; 2],
    pub vms: Vec<VmName>,
    pub homes: Vec<NodeSlot>,
    pub volumes_made: bool,
    /// `open[path][from]`: whether what `from` sends by `path` arrives.
    pub open: [[bool; 2]; 2],
    /// Whether DRBD's own packets pass (the agents' may pass all the same).
    pub replication_open: bool,
    pub wan_to: [bool; 2],
    pub wan_from: [bool; 2],
    pub witness: WitnessState,
    pub witness_backup: WitnessState,
    pub witness_up: bool,
    pub contacts: Contacts,
    pub local: LocalBox,
    /// What kind of memory was lost first in this run.
    pub forgot: Option<Memory>,
    pub loss: u64,
    pub acked: Vec<Vec<u32>>,
    /// What each VM has in memory: changes with all it does.
    pub memory: Vec<u64>,
    pub next_id: u64,
    pub quiet: bool,
    /// Where VMs are to run, as HQ has it, and what draws the orders.
    pub placement: Placement,
    pub orders: Rng,
    pub seed: u64,
    pub less: Less,
    /// Number of the next fault, and those that were not left out.
    pub planned: u32,
    pub caused: Vec<u32>,
    pub failure: Option<String>,
    pub trace: Vec<String>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
}

pub(crate) fn slot(node: usize) -> NodeSlot {
    NodeSlot::BOTH[node]
}

pub(crate) fn path_index(path: Path) -> usize {
    usize::from(path == Path::Lan)
}

impl Node {
    fn new(vms: usize) -> Self {
        Self {
            up: false,
            hung: false,
            woke_at: 0,
            backlog: None,
            power: 0,
            agent: 0,
            core: None,
            boot: 0,
            seq: 0,
            disk: None,
            older_disk: None,
            inflight: None,
            dies_at_write: None,
            route: Path::Cable,
            keeper: Keeper::new(State::Idle, 0),
            can_arm: true,
            slow_disk: false,
            petted_at: 0,
            clock_zero: 0,
            vols: Vec::new(),
            runs: vec![VmRun::Stopped; vms],
            first_io: vec![false; vms],
            taps: vec![Tap::default(); vms],
            promote_ticket: vec![0; vms],
            incoming: vec![None; vms],
            hands: vec![None; vms],
            helpers: Vec::new(),
            told_link: None,
            bmc: Bmc::new(),
            placement: Placement::default(),
        }
    }

    /// Its lease ran out: nothing but a reset comes.
    pub fn doomed(&self) -> bool {
        matches!(self.keeper.state(), State::Expired { .. })
    }

    /// Powered, not hung.
    pub fn alive(&self) -> bool {
        self.up && !self.hung
    }
}

impl World {
    pub fn new(seed: u64, opts: Opts, less: Less) -> Self {
        let mut rng = Rng::new(seed);
        let mut bmc_rng = bmc::bmc_rng(seed);
        let has_bmc = bmc::site_has_bmc(&mut bmc_rng, opts.mutation);
        let count = 1 + rng.index(VMS_MAX);
        let mut homes: Vec<NodeSlot> = (0..VMS_MAX).map(|_| slot(rng.index(2))).collect();
        let witness = WitnessState::new(rng.next());
        let loss = [0, 5, 30, 100][rng.index(4)];
        let (count, loss) = (if less.vms { 1 } else { count }, if less.loss { 0 } else { loss });
        homes.truncate(count);
        let vms = (0..count).map(|i| VmName::new(format!("vm{i}")).expect("valid")).collect();
        Self {
            now: 0,
            rng,
            bmc_rng,
            has_bmc,
            opts,
            stats: Stats::default(),
            nodes: [Node::new(count), Node::new(count)],
            vms,
            homes,
            volumes_made: false,
            open: [[true; 2]; 2],
            replication_open: true,
            wan_to: [true; 2],
            wan_from: [true; 2],
            witness_backup: witness.clone(),
            witness,
            witness_up: true,
            contacts: Contacts::default(),
            local: LocalBox::new(seed),
            forgot: None,
            loss,
            acked: vec![Vec::new(); count],
            memory: vec![0; count],
            next_id: 1,
            quiet: false,
            placement: Placement::default(),
            orders: Rng::new(seed ^ ORDERS),
            seed,
            less,
            planned: 0,
            caused: Vec::new(),
            failure: None,
            trace: Vec::new(),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            order: 0,
        }
    }

    pub fn at(&mut self, delay: u64, event: Event) {
        let index = if let Some(index) = self.free.pop() {
            self.events[index] = Some(event);
            index
        } else {
            self.events.push(Some(event));
            self.events.len() - 1
        };
        self.order += 1;
        self.queue.push(Reverse((self.now + delay, self.order, index)));
    }

    /// Next event not later than `until`.
    pub fn pop(&mut self, until: u64) -> Option<Event> {
        let Reverse((at, _, index)) = *self.queue.peek()?;
        if at > until {
            return None;
        }
        self.queue.pop();
        self.free.push(index);
        self.now = at;
        self.events[index].take()
    }

    pub fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.opts.trace {
            let line = format!("{:>9.3} {}", seconds(self.now), text(self));
            self.trace.push(line);
        }
    }

    pub fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            self.note(|_| format!("!! {what}"));
            self.failure = Some(what);
        }
    }

    pub fn mutated(&self, mutation: Mutation) -> bool {
        self.opts.mutation == Some(mutation)
    }

    /// Whether a packet that `from` sends by `path` arrives (loss aside).
    pub fn carries(&self, path: Path, from: usize) -> bool {
        self.open[path_index(path)][from]
            && self.nodes[from].alive()
            && self.nodes[1 - from].alive()
    }

    /// Whether replication packets of `from` arrive.
    pub fn replicates(&self, from: usize) -> bool {
        self.replication_open && self.carries(self.nodes[from].route, from)
    }

    /// Gives the agent of a server an input and carries its orders out.
    pub fn feed(&mut self, node: usize, input: Input) {
        if !self.nodes[node].alive() || self.failure.is_some() {
            return;
        }
        if let Some(backlog) = &mut self.nodes[node].backlog {
            if !matches!(input, Input::Tick) && backlog.len() < BACKLOG_MAX {
                backlog.push(input);
            }
            return;
        }
        let now = agent_core::Millis(self.now - self.nodes[node].clock_zero);
        let Some(core) = self.nodes[node].core.as_mut() else { return };
        self.stats.steps += 1;
        let before = self.opts.trace.then(|| core.status());
        let shown = match (&input, self.opts.trace) {
            (Input::Tick | Input::PeerHeard { .. }, _) | (_, false) => None,
            (Input::WitnessAnswered(answer), _) if is_read(answer) => None,
            (input, true) => Some(format!("{input:?}")),
        };
        let effects = core.step(now, input);
        if let Some(before) = before {
            let after = core.status();
            if let Some(shown) = shown {
                self.note(|_| format!("{} <- {shown}", slot(node)));
            }
            if (before.state, before.epoch) != (after.state, after.epoch) {
                self.note(|_| {
                    format!(
                        "{}    {:?} epoch {} -> {:?} epoch {} in_sync {:?}: {}",
                        slot(node),
                        before.state,
                        before.epoch,
                        after.state,
                        after.epoch,
                        after.in_sync,
                        after.cause
                    )
                });
            }
        }
        for effect in effects {
            self.trace_effect(node, &effect);
            self.carry_out(node, effect);
        }
    }

    fn trace_effect(&mut self, node: usize, effect: &Effect) {
        let often = matches!(
            effect,
            Effect::SendPeer { .. } | Effect::RenewLease | Effect::ReadWitness { .. }
        );
        if !often {
            self.note(|_| format!("{} -> {effect:?}", slot(node)));
        }
    }

    pub fn vm_index(&self, name: &VmName) -> usize {
        self.vms.iter().position(|vm| vm == name).expect("a VM of this site")
    }
}

/// The answer to a read, of which there are many.
fn is_read(answer: &WitnessAnswer) -> bool {
    !answer.granted && answer.reason.is_empty()
}

fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1_000.0
}
