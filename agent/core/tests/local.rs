// SPDX-License-Identifier: Apache-2.0
//! A witness on site: when it counts, and that never two do.

mod rig;

use agent_core::{DurableState, Effect, Input, Tie, WitnessAt, WitnessMark};
use provisioning_protocol::ids::Epoch;
use provisioning_protocol::peer::{LocalWitness, PeerBody};
use provisioning_protocol::witness::WitnessRecord;
use rig::{Rig, paired, peer, record};

/// A tie-break on site, at an epoch, known to the witness there as given.
fn local(last_seen: Option<WitnessMark>) -> DurableState {
    DurableState { tie: Tie::Local, last_seen, ..paired() }
}

fn mark(incarnation: u64) -> WitnessMark {
    WitnessMark { incarnation, version: 3, epoch: Epoch(5) }
}

/// Answers the reads of the box on site for a while, the peer as given.
fn answer_reads(rig: &mut Rig, ms: u64, body: &PeerBody, seen: &WitnessRecord) {
    for _ in 0..ms / 200 {
        rig.hear(body.clone());
        rig.wait(200);
        for order in rig.orders() {
            if let Effect::ReadWitness { at: WitnessAt::Local, request_id } = order {
                rig.answer(request_id, false, seen.clone());
            }
        }
    }
}

fn asked(rig: &mut Rig) -> Vec<WitnessAt> {
    let at = |effect: Effect| match effect {
        Effect::AskWitness { at, .. } => Some(at),
        _ => None,
    };
    rig.orders().into_iter().filter_map(at).collect()
}

#[test]
fn the_follower_of_a_move_to_the_box_forgets_what_hq_said() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::LocalWitness(true));
    let body = PeerBody { local_witness: LocalWitness::Heard, ..peer() };
    let empty = WitnessRecord { incarnation: 9, version: 0, epoch: Epoch(0), ..record() };
    answer_reads(&mut rig, 12_000, &body, &empty);
    assert_eq!(rig.core.durable().tie, Tie::Hq, "slot A writes it first");
    let moved = PeerBody { epoch: Epoch(6), tie: Tie::Local, ..body };
    rig.hear(moved);
    let durable = rig.core.durable();
    assert_eq!((durable.tie, durable.epoch, durable.last_seen), (Tie::Local, Epoch(6), None));
    rig.lose_peer();
    rig.wait(60_000);
    assert_eq!(asked(&mut rig), [], "neither witness may be asked before the pair is on record");
    assert!(rig.core.status().cause.contains("never made known"), "{}", rig.core.status().cause);
}

#[test]
fn with_the_tie_on_site_only_the_box_is_claimed_at_and_named() {
    let mut rig = Rig::new(Some(local(Some(mark(9)))), &[]);
    rig.give(Input::LocalWitness(true));
    rig.give(Input::LinkChanged(rig::link(true)));
    let body = PeerBody { tie: Tie::Local, local_witness: LocalWitness::Heard, ..peer() };
    let seen = WitnessRecord { incarnation: 9, ..record() };
    answer_reads(&mut rig, 4_000, &body, &seen);
    rig.lose_peer();
    rig.wait(4_000);
    let asked = asked(&mut rig);
    assert!(!asked.is_empty() && asked.iter().all(|at| *at == WitnessAt::Local), "{asked:?}");
    assert!(rig.core.status().cause.contains("on site"), "{}", rig.core.status().cause);
}

#[test]
fn a_record_of_hq_is_no_grant_while_the_tie_is_on_site() {
    let mut rig = Rig::new(Some(local(Some(mark(9)))), &[]);
    rig.give(Input::LocalWitness(true));
    rig.give(Input::LinkChanged(rig::link(true)));
    let body = PeerBody { tie: Tie::Local, ..peer() };
    answer_reads(&mut rig, 4_000, &body, &WitnessRecord { incarnation: 9, ..record() });
    rig.lose_peer();
    rig.wait(2_000);
    let swap = rig.swaps().pop().expect("a claim at the box");
    // HQ's words under the id of the question to the box: another incarnation.
    rig.grant(&swap);
    assert!(!rig.core.durable().solo);
}
