// SPDX-License-Identifier: Apache-2.0
//! One state of the model: two servers with the real core in each, their disks and volumes, what is
//! on its way between them, and the witnesses.

use crate::promises::Broken;
use crate::rules::Mutation;
use crate::witness::Witness;
use agent_core::{Core, DurableState, LinkSummary, VmRun, WitnessAt};
use agent_watchdog::keeper::{Keeper, State};
use provisioning_protocol::ids::{Epoch, NodeSlot, VmName};
use provisioning_protocol::peer::{Path, PeerBody};
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tests_sim::drbd::Vol;

/// Time goes on in rounds of this length. Both agents tick once a round.
pub const ROUND_MS: u64 = 500;

/// Turns a behaviour can take: first by the core's own words for them, then what concerns a box.
/// Bounds within which none of them is reached would show nothing.
pub const TURNS: [&str; 13] = [
    "grant",
    "takeover",
    "lost",
    "evicted",
    "yielded",
    "joined",
    "tie",
    "declared",
    "HQ to box",
    "server to box",
    "box to HQ",
    "box to server",
    "grant by box",
];

/// What HQ's and the box's first incarnations are called; a copy put back counts on from there.
const INCARNATIONS: [u64; 2] = [1, 1_001];

/// Something on its way. `to`, `node`: the server that takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A datagram, by the paths that were open.
    Message { to: usize, paths: [bool; 2], boot: u64, seq: u64, body: Arc<PeerBody> },
    /// A swap on its way to a witness.
    Ask { from: usize, at: WitnessAt, agent: u32, swap: WitnessSwap },
    /// Its answer.
    Answer { to: usize, at: WitnessAt, agent: u32, answer: Box<WitnessAnswer> },
    /// A read of the record: asked and answered in one step.
    Read { from: usize, at: WitnessAt, agent: u32, request_id: u64 },
    /// The way to a witness is down.
    Unreachable { to: usize, agent: u32, request_id: u64 },
    /// A write of the durable state; `None` if it never reaches the disk (a broken rule).
    Persisted { node: usize, agent: u32, token: u64, state: Option<Box<DurableState>> },
    /// The answer of the agent on its way to the kernel.
    HelperAnswer { node: usize, agent: u32, id: u64, code: u8 },
    /// A server's own work.
    Own { node: usize, agent: u32, work: Work },
    /// A server gets its power back.
    PowerOn { node: usize, power: u32 },
    /// An agent is started again.
    AgentStart { node: usize, power: u32 },
    /// HQ can be reached again.
    WanOn,
    /// The box gets its power back.
    BoxOn,
    /// A server hears that the box is taken out of service.
    BoxUnset { node: usize },
    /// The paths between the servers are whole again.
    CutOver,
}

/// What a server does by itself, touching nothing but itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    HelperAsks(u64),
    Promote { until: u64, ticket: u32 },
    Demote,
    Start,
    Stop,
    Pause,
    Resume,
    Outdate,
    Evict,
    Reconnect,
    Armed(bool),
    Reset,
}

/// A fence-peer helper process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Helper {
    pub id: u64,
    pub losses: u32,
    pub primary: bool,
}

/// One server.
#[derive(Debug, Clone)]
pub struct Node {
    pub up: bool,
    pub power: u32,
    pub agent: u32,
    pub core: Option<Arc<Core>>,
    pub boot: u64,
    pub seq: u64,
    pub disk: Option<DurableState>,
    pub older_disk: Option<DurableState>,
    /// The highest epoch this server was ever told to be on its disk.
    pub confirmed: Epoch,
    pub route: Path,
    pub keeper: Keeper,
    pub petted_at: u64,
    pub vol: Option<Vol>,
    pub run: VmRun,
    pub first_io: bool,
    pub ticket: u32,
    pub helpers: Vec<Helper>,
    pub helper_ids: u64,
    pub told_link: Option<LinkSummary>,
    /// What it said last: the same again is no news.
    pub said: Option<(u64, Arc<PeerBody>)>,
}

/// The site.
#[derive(Clone)]
pub struct Site {
    pub mutation: Option<Mutation>,
    pub round: u32,
    pub nodes: [Node; 2],
    /// May happen now, in any order.
    pub pending: Vec<Event>,
    /// Happens in a later round.
    pub later: Vec<(u32, Event)>,
    /// Happens next: work of a server that nothing else can come between.
    pub soon: VecDeque<Event>,
    /// `open[path][from]`: whether what `from` sends by `path` arrives.
    pub open: [[bool; 2]; 2],
    /// Whether DRBD's own packets pass.
    pub replication: bool,
    /// The server that notices a cut first.
    pub early: usize,
    pub hq: Witness,
    /// The box.
    pub on_site: Option<Witness>,
    pub acked: Vec<u32>,
    pub faults_left: u8,
    /// Faults so far that may cost the site something.
    pub grave: u8,
    /// The round of the first fault.
    pub zero: u32,
    /// Something that was on its way has happened in this round.
    pub news: bool,
    pub ended: bool,
    pub broken: Broken,
    /// Inputs given to the two cores on the way here; not part of the state.
    pub steps: u64,
    /// Which of [`TURNS`] came on the way here, one bit each; not part of the state.
    pub turns: u64,
    /// What happened, when somebody wants to read it; not part of the state.
    pub trace: Option<Vec<String>>,
}

pub fn slot(node: usize) -> NodeSlot {
    NodeSlot::BOTH[node]
}

/// The one VM of the site.
pub fn vm_name() -> VmName {
    VmName::new("vm").expect("valid")
}

impl Node {
    pub fn new() -> Self {
        Self {
            up: false,
            power: 0,
            agent: 0,
            core: None,
            boot: 0,
            seq: 0,
            disk: None,
            older_disk: None,
            confirmed: Epoch(0),
            route: Path::Cable,
            keeper: Keeper::new(State::Idle, 0),
            petted_at: 0,
            vol: None,
            run: VmRun::Stopped,
            first_io: false,
            ticket: 0,
            helpers: Vec::new(),
            helper_ids: 0,
            told_link: None,
            said: None,
        }
    }

    pub fn connected(&self) -> bool {
        self.vol.as_ref().is_some_and(Vol::connected)
    }

    fn digest(&self, h: &mut impl Hasher) {
        (self.up, self.power, self.agent, &self.core, self.boot, self.seq).hash(h);
        (&self.disk, &self.older_disk, self.confirmed, self.route).hash(h);
        (self.keeper, self.petted_at, &self.vol, self.run, self.first_io).hash(h);
        (self.ticket, &self.helpers, self.helper_ids, self.told_link, &self.said).hash(h);
    }
}

impl Site {
    pub fn new(mutation: Option<Mutation>, faults: u8, with_box: bool) -> Self {
        let [hq, on_site] = INCARNATIONS.map(Witness::new);
        Self {
            mutation,
            round: 0,
            nodes: [Node::new(), Node::new()],
            pending: Vec::new(),
            later: Vec::new(),
            soon: VecDeque::new(),
            open: [[true; 2]; 2],
            replication: true,
            early: 0,
            hq,
            on_site: with_box.then_some(on_site),
            acked: Vec::new(),
            faults_left: faults,
            grave: 0,
            zero: 0,
            news: false,
            ended: false,
            broken: Broken::default(),
            steps: 0,
            turns: 0,
            trace: None,
        }
    }

    pub fn now(&self) -> u64 {
        u64::from(self.round) * ROUND_MS
    }

    /// A number that no other event of this server has: data generations, writes, boots.
    pub fn fresh(&self, node: usize) -> u32 {
        2 * self.round + u32::from(node == 1) + 2
    }

    pub fn mutated(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether a packet that `from` sends by `path` arrives.
    pub fn carries(&self, path: usize, from: usize) -> bool {
        self.open[path][from] && self.nodes.iter().all(|node| node.up)
    }

    pub fn replicates(&self, from: usize) -> bool {
        let path = usize::from(self.nodes[from].route == Path::Lan);
        self.replication && self.carries(path, from)
    }

    pub fn later(&mut self, rounds: u32, event: Event) {
        self.later.push((self.round + rounds, event));
    }

    pub fn own(&mut self, node: usize, rounds: u32, work: Work) {
        let event = Event::Own { node, agent: self.nodes[node].agent, work };
        if rounds == 0 { self.soon.push_back(event) } else { self.later(rounds, event) }
    }

    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let ms = self.now();
            let line = format!("{:>4}.{} {}", ms / 1_000, ms % 1_000 / 100, text(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    /// Two states with the same digest have the same future. The order of what is on its way
    /// means nothing.
    pub fn digest(&self) -> u64 {
        let h = &mut DefaultHasher::new();
        (self.round, self.open, self.replication, self.early).hash(h);
        self.nodes.iter().for_each(|node| node.digest(h));
        let of = |event: &Event| {
            let mut h = DefaultHasher::new();
            event.hash(&mut h);
            h.finish()
        };
        let mut pending: Vec<u64> = self.pending.iter().map(of).collect();
        pending.sort_unstable();
        (pending, &self.later, &self.hq, &self.on_site, &self.acked).hash(h);
        (self.faults_left, self.grave, self.news, self.ended, &self.broken).hash(h);
        h.finish()
    }
}
