// SPDX-License-Identifier: Apache-2.0
//! Server B of a pair, driven by hand: facts in, orders collected.
#![allow(dead_code, reason = "each test file uses a part of it")]

use agent_core::{
    BootFacts, Config, Core, DesiredVm, Disk, DurableState, Effect, HelperCode, Input, LinkSummary,
    Millis, Tie, VmRun, WitnessMark,
};
use provisioning_protocol::ids::{Epoch, NodeSlot, VmName};
use provisioning_protocol::peer::{LocalWitness, Path, PeerBody, PeerState};
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessState, WitnessSwap};
use std::sync::Arc;

pub const ME: NodeSlot = NodeSlot::B;
pub const PEER: NodeSlot = NodeSlot::A;

/// The VM of the tests.
pub fn vm() -> VmName {
    VmName::new("till").expect("valid")
}

/// Both in sync at epoch 5, the VM on the peer, the peer's watchdog armed.
pub fn paired() -> DurableState {
    DurableState {
        epoch: Epoch(5),
        in_sync: NodeSlot::BOTH.into(),
        last_seen: Some(WitnessMark { incarnation: 1, version: 3, epoch: Epoch(5) }),
        peer_watchdog: true,
        owners: [(vm(), PEER)].into(),
        ..DurableState::fresh(ME)
    }
}

/// The record that belongs to [`paired`].
pub fn record() -> WitnessRecord {
    WitnessRecord {
        version: 3,
        incarnation: 1,
        epoch: Epoch(5),
        in_sync: NodeSlot::BOTH.into(),
        winner: None,
    }
}

/// A healthy peer's message.
pub fn peer() -> PeerBody {
    PeerBody {
        epoch: Epoch(5),
        state: PeerState::Pair,
        in_sync: NodeSlot::BOTH.into(),
        watchdog_armed: true,
        hears: Path::BOTH.into(),
        link_up: true,
        disks_up_to_date: true,
        running: [vm()].into(),
        released: false,
        witness: None,
        agree: None,
        solo: false,
        claimed: false,
        sees_watchdog: true,
        owners: [(vm(), PEER)].into(),
        tie: Tie::Hq,
        hq_lost: false,
        local_witness: LocalWitness::None,
        moves: [].into(),
        receives: None,
        handed: None,
    }
}

pub fn link(connected: bool) -> LinkSummary {
    LinkSummary {
        volumes: 1,
        connected,
        mine: Disk::UpToDate,
        peers: if connected { Disk::UpToDate } else { Disk::Unknown },
        ..LinkSummary::default()
    }
}

pub struct Rig {
    pub core: Core,
    now: u64,
    seq: u64,
    out: Vec<Effect>,
    /// Answer `Persist` at once.
    pub disk_works: bool,
    held: Option<u64>,
}

impl Rig {
    pub fn new(durable: Option<DurableState>, vms: &[VmRun]) -> Self {
        let core = Core::new(Config::new(ME, 77));
        let (now, seq, out) = (1_000, 0, Vec::new());
        let mut rig = Self { core, now, seq, out, disk_works: true, held: None };
        let vms = vms.iter().map(|run| (vm(), *run)).collect();
        rig.give(Input::Boot(Box::new(BootFacts { durable, vms, path: Path::Cable })));
        rig.give(Input::Desired(vec![DesiredVm { name: vm(), home: PEER, weight: 1 }]));
        rig.give(Input::VolumesReady { vm: vm(), ready: true });
        rig.give(Input::WatchdogArmed(true));
        rig
    }

    /// In step with the peer, as after a quiet minute.
    pub fn in_step(durable: DurableState, vms: &[VmRun]) -> Self {
        let mut rig = Self::new(Some(durable), vms);
        rig.give(Input::LinkChanged(link(true)));
        for _ in 0..20 {
            rig.hear(peer());
            rig.wait(200);
        }
        rig.orders();
        rig
    }

    /// Frozen: its peer is lost, and only that one may go on alone.
    pub fn stuck() -> Self {
        let mut rig = Self::in_step(DurableState { tie: Tie::Node(PEER), ..paired() }, &[]);
        rig.lose_peer();
        rig.wait(10_000);
        rig.orders();
        rig
    }

    pub fn give(&mut self, input: Input) {
        let effects = self.core.step(Millis(self.now), input);
        let tokens: Vec<u64> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Persist { token, .. } => Some(*token),
                _ => None,
            })
            .collect();
        self.out.extend(effects);
        for token in tokens {
            if self.disk_works {
                self.give(Input::Persisted { token });
            } else {
                self.held = Some(token);
            }
        }
    }

    /// The held-back write reaches the disk.
    pub fn disk_done(&mut self) {
        self.disk_works = true;
        let token = self.held.take().expect("a write was held back");
        self.give(Input::Persisted { token });
    }

    pub fn hear(&mut self, body: PeerBody) {
        self.seq += 1;
        for path in Path::BOTH {
            let body = Arc::new(body.clone());
            self.give(Input::PeerHeard { path, boot: 1, seq: self.seq, body });
        }
    }

    pub fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            self.give(Input::Tick);
        }
    }

    /// Hears this for a while, five times a second.
    pub fn hear_for(&mut self, ms: u64, body: &PeerBody) {
        for _ in 0..ms / 200 {
            self.hear(body.clone());
            self.wait(200);
        }
    }

    /// Passes time with a witness that answers; the peer says this, if anything.
    pub fn live(&mut self, witness: &mut WitnessState, ms: u64, peer: Option<&PeerBody>) {
        for _ in 0..ms / 200 {
            if let Some(body) = peer {
                self.hear(body.clone());
            }
            self.wait(200);
            for order in self.orders() {
                match order {
                    Effect::AskWitness { swap, .. } => {
                        let answer = witness.swap(&swap);
                        self.answer(answer.request_id, answer.granted, answer.record);
                    }
                    Effect::ReadWitness { request_id, .. } => {
                        self.answer(request_id, false, witness.record.clone());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether something like this was ordered since the last look.
    pub fn ordered(&mut self, wanted: impl Fn(&Effect) -> bool) -> bool {
        self.orders().iter().any(wanted)
    }

    /// The whole server stands still.
    pub fn hang(&mut self, ms: u64) {
        self.now += ms;
        self.give(Input::Tick);
    }

    /// The peer falls silent and the link drops.
    pub fn lose_peer(&mut self) {
        self.wait(1_500);
        self.give(Input::LinkChanged(link(false)));
    }

    /// Orders since the last call.
    pub fn orders(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    pub fn answers(&mut self) -> Vec<HelperCode> {
        let answer = |effect: Effect| match effect {
            Effect::AnswerHelper { code, .. } => Some(code),
            _ => None,
        };
        self.orders().into_iter().filter_map(answer).collect()
    }

    /// Swaps asked since the last call.
    pub fn swaps(&mut self) -> Vec<WitnessSwap> {
        let swap = |effect: Effect| match effect {
            Effect::AskWitness { swap, .. } => Some(swap),
            _ => None,
        };
        self.orders().into_iter().filter_map(swap).collect()
    }

    pub fn helper(&mut self, id: u64, primary: bool) {
        self.give(Input::HelperAsked { id, vm: vm(), primary });
    }

    /// The witness grants what is asked.
    pub fn grant(&mut self, swap: &WitnessSwap) {
        let record = WitnessRecord {
            version: 4,
            epoch: swap.epoch,
            in_sync: swap.in_sync.clone(),
            winner: swap.winner,
            ..record()
        };
        self.answer(swap.request_id, true, record);
    }

    pub fn answer(&mut self, request_id: u64, granted: bool, record: WitnessRecord) {
        let reason = String::new();
        self.give(Input::WitnessAnswered(WitnessAnswer { request_id, granted, record, reason }));
    }
}
