// SPDX-License-Identifier: Apache-2.0
//! What a server hears from its peer and its witness, and reads from its own disk: not only is it
//! decoded, it is given to a living core, whose invariants must hold.

use agent_core::{
    BootFacts, Config, Core, DesiredVm, Disk, DurableState, Effect, Input, LinkSummary, Millis,
    VmRun, WitnessMark,
};
use agent_daemon::durable::slots;
use agent_daemon::pair::engine::durable;
use agent_daemon::peer::check::Checker;
use agent_daemon::peer::memory::read_any;
use provisioning_protocol::ids::{Epoch, NodeSlot, SiteName, VmName};
use provisioning_protocol::peer::{Path, Tie};
use provisioning_protocol::witness::{WitnessAnswer, WitnessState, WitnessSwap};
use std::sync::Arc;

fn name() -> VmName {
    VmName::new("till").expect("a valid name")
}

fn paired() -> DurableState {
    DurableState {
        epoch: Epoch(5),
        tie: Tie::Hq,
        in_sync: NodeSlot::BOTH.into(),
        last_seen: Some(WitnessMark { incarnation: 1, version: 3, epoch: Epoch(5) }),
        peer_watchdog: true,
        owners: [(name(), NodeSlot::A)].into(),
        ..DurableState::fresh(NodeSlot::A)
    }
}

/// A core whose disk works.
struct Rig {
    core: Core,
    now: u64,
    asked: Option<u64>,
}

impl Rig {
    fn new(durable: Option<DurableState>, connected: bool) -> Self {
        let mut rig =
            Self { core: Core::new(Config::new(NodeSlot::A, 7)), now: 1_000, asked: None };
        let vms = vec![(name(), VmRun::Running)];
        rig.give(Input::Boot(Box::new(BootFacts { durable, vms, path: Path::Cable })));
        rig.give(Input::Desired(vec![DesiredVm { name: name(), home: NodeSlot::A, weight: 1 }]));
        rig.give(Input::VolumesReady { vm: name(), ready: true });
        rig.link(connected);
        rig
    }

    fn link(&mut self, connected: bool) {
        let peers = if connected { Disk::UpToDate } else { Disk::Unknown };
        let (volumes, mine) = (1, Disk::UpToDate);
        let summary = LinkSummary { volumes, connected, mine, peers, ..LinkSummary::default() };
        self.give(Input::LinkChanged(summary));
    }

    fn give(&mut self, input: Input) {
        for effect in self.core.step(Millis(self.now), input) {
            match effect {
                Effect::Persist { token, .. } => self.give(Input::Persisted { token }),
                Effect::AskWitness { swap, .. } => self.asked = Some(swap.request_id),
                Effect::ReadWitness { request_id, .. } => self.asked = Some(request_id),
                _ => {}
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 500 {
            self.now += 500;
            self.give(Input::Tick);
        }
    }
}

/// A datagram, heard by a frozen server and by one in a pair.
pub fn peer(data: &[u8]) {
    let site = SiteName::new("oslo").expect("a valid name");
    let Ok(datagram) = Checker::new(site, NodeSlot::A).take(data) else { return };
    for connected in [true, false] {
        let mut rig = Rig::new(Some(paired()), connected);
        rig.wait(4_000);
        for ahead in 0..3 {
            let (path, boot, body) = (Path::Cable, datagram.boot, datagram.body.clone());
            let seq = datagram.seq.saturating_add(ahead);
            rig.give(Input::PeerHeard { path, boot, seq, body: Arc::new(body) });
            rig.wait(500);
        }
        rig.link(false);
        rig.wait(10_000);
    }
}

/// The first line of a stream of memory.
pub fn memory(data: &[u8]) {
    let _ = read_any(data);
}

/// An answer, to a server that claims.
pub fn witness(data: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<WitnessAnswer>(data) else { return };
    let mut rig = Rig::new(Some(paired()), true);
    rig.wait(4_000);
    rig.link(false);
    for _ in 0..20 {
        rig.wait(1_000);
        let request_id = rig.asked.take().unwrap_or(answer.request_id);
        rig.give(Input::WitnessAnswered(WitnessAnswer { request_id, ..answer.clone() }));
    }
}

/// Swaps, one after the other, at a witness that knows the pair.
pub fn swap(data: &[u8]) {
    let mut witness = WitnessState::new(1);
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let Ok(request) = serde_json::from_slice::<WitnessSwap>(line) else { continue };
        let before = witness.record.clone();
        let answer = witness.swap(&request);
        assert!(answer.record.epoch >= before.epoch, "an epoch went back");
        assert!(answer.record.version >= before.version, "a version went back");
        assert!(answer.granted || answer.record == before, "a refusal changed the record");
    }
}

/// A slot's bytes as they lie on the disk.
pub fn slot(data: &[u8]) {
    if let Some((seq, payload)) = slots::decode(data) {
        assert_eq!(slots::encode(seq, &payload), data, "read and written differ");
        state(&payload);
    }
}

/// A payload whose checksum was right: what it says may still be anything.
pub fn state(data: &[u8]) {
    let state = durable(Some(data.to_vec()));
    for connected in [false, true] {
        let mut rig = Rig::new(state.clone(), connected);
        rig.wait(10_000);
    }
}
