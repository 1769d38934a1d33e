// SPDX-License-Identifier: Apache-2.0
//! Planned moves, step by step on one server. (Losses in the middle are the simulator's.)

mod rig;

use agent_core::{DurableState, Effect, Input, Placement, VmRun};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::{Handover, PeerBody};
use rig::{ME, PEER, Rig, link, paired, peer, vm};

/// The VM runs here; its home is the peer.
fn mine() -> (DurableState, PeerBody) {
    let owners = [(vm(), ME)];
    let body = PeerBody { owners: owners.clone().into(), running: [].into(), ..peer() };
    (DurableState { owners: owners.into(), ..paired() }, body)
}

fn source() -> (Rig, PeerBody) {
    let (durable, body) = mine();
    let mut rig = Rig::new(Some(durable), &[VmRun::Running]);
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &body);
    rig.orders();
    (rig, body)
}

fn drain(rig: &mut Rig, slot: NodeSlot) {
    rig.give(Input::Placement(Placement { drained: Some(slot), rebalance: false }));
}

fn stops(rig: &mut Rig) -> bool {
    rig.orders().iter().any(|effect| matches!(effect, Effect::StopVm { .. }))
}

/// The peer takes it, but not live.
fn agreed(body: &PeerBody) -> PeerBody {
    let receives = Some(Handover { vm: vm(), ticket: None });
    PeerBody { moves: [(vm(), PEER)].into(), receives, ..body.clone() }
}

#[test]
fn nothing_stops_before_the_move_is_on_both_disks() {
    let (mut rig, body) = source();
    rig.disk_works = false;
    drain(&mut rig, ME);
    rig.hear_for(1_000, &agreed(&body));
    assert!(!stops(&mut rig), "it is not on this disk");
    rig.hear_for(200, &body);
    rig.disk_done();
    rig.hear_for(1_000, &body);
    assert!(!stops(&mut rig), "it is not on the peer's disk");
    assert_eq!(rig.core.durable().moves, [(vm(), PEER)].into());
    rig.hear_for(1_000, &agreed(&body));
    assert!(stops(&mut rig));
}

#[test]
fn a_vm_is_given_away_only_when_nothing_of_it_is_left_here() {
    let (mut rig, body) = source();
    drain(&mut rig, ME);
    let body = agreed(&body);
    rig.hear_for(1_000, &body);
    assert_eq!(rig.core.durable().owners[&vm()], ME);
    rig.give(Input::VmState { vm: vm(), state: VmRun::Stopped });
    rig.hear_for(1_000, &body);
    assert_eq!(rig.core.durable().owners[&vm()], ME, "its volumes are still primary");
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.wait(200);
    assert_eq!(rig.core.durable().owners[&vm()], PEER);
    assert_eq!(rig.core.durable().moves.len(), 1, "until the peer has it on disk");
    rig.hear_for(400, &PeerBody { owners: [(vm(), PEER)].into(), ..body });
    assert!(rig.core.durable().moves.is_empty());
}

#[test]
fn without_the_peer_a_move_that_has_not_gone_through_is_none() {
    let (mut rig, body) = source();
    drain(&mut rig, ME);
    rig.hear_for(1_000, &agreed(&body));
    rig.give(Input::VmState { vm: vm(), state: VmRun::Stopped });
    rig.lose_peer();
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.wait(6_000);
    let swap = rig.swaps().into_iter().find(|swap| swap.winner == Some(ME)).expect("asked");
    rig.grant(&swap);
    rig.wait(1_000);
    assert!(rig.core.durable().solo);
    let started = rig.orders().iter().any(|effect| matches!(effect, Effect::Promote { .. }));
    assert!(started, "the source runs it again");
}

#[test]
fn a_drain_waits_for_a_peer_in_sync_and_says_so() {
    let (mut rig, body) = source();
    let behind = PeerBody { disks_up_to_date: false, ..body.clone() };
    rig.hear_for(1_000, &behind);
    drain(&mut rig, ME);
    rig.hear_for(2_000, &behind);
    assert!(rig.core.durable().moves.is_empty());
    let problems = rig.core.status().problems;
    assert!(problems.iter().any(|text| text.contains("not in sync")), "{problems:?}");
    rig.hear_for(1_000, &body);
    assert_eq!(rig.core.durable().moves.len(), 1);
}

#[test]
fn an_undrained_server_keeps_what_it_has_not_given_away() {
    let (mut rig, body) = source();
    drain(&mut rig, ME);
    rig.hear_for(1_000, &agreed(&body));
    rig.give(Input::Placement(Placement::default()));
    rig.orders();
    rig.give(Input::VmState { vm: vm(), state: VmRun::Stopped });
    rig.hear_for(6_000, &body);
    assert!(rig.core.durable().moves.is_empty());
    assert_eq!(rig.core.durable().owners[&vm()], ME);
    let started = rig.orders().iter().any(|effect| matches!(effect, Effect::StartVm { .. }));
    assert!(started, "it is started here again");
}

#[test]
fn a_peer_that_does_not_agree_is_left_alone_for_a_while() {
    let (mut rig, body) = source();
    drain(&mut rig, ME);
    rig.hear_for(31_000, &body);
    assert!(rig.core.durable().moves.is_empty());
    rig.hear_for(60_000, &body);
    assert!(rig.core.durable().moves.is_empty());
    rig.hear_for(250_000, &body);
    assert_eq!(rig.core.durable().moves.len(), 1, "then it is asked again");
    assert!(!stops(&mut rig));
}

#[test]
fn the_destination_starts_nothing_before_the_vm_is_its_own_on_both_disks() {
    let mut rig = Rig::in_step(paired(), &[]);
    let offer = PeerBody { moves: [(vm(), ME)].into(), ..peer() };
    rig.hear_for(1_000, &offer);
    assert_eq!(rig.core.durable().moves, [(vm(), ME)].into(), "agreed");
    let orders = rig.orders();
    assert!(orders.iter().any(|effect| matches!(effect, Effect::ReceiveVm { .. })));
    assert!(!orders.iter().any(|effect| matches!(effect, Effect::Promote { .. })), "{orders:?}");
    rig.disk_works = false;
    let given = PeerBody { owners: [(vm(), ME)].into(), running: [].into(), ..offer };
    rig.hear_for(1_000, &given);
    let early = rig.orders().iter().any(|effect| matches!(effect, Effect::Promote { .. }));
    assert!(!early, "not on this disk yet");
    rig.disk_done();
    rig.hear_for(1_000, &given);
    assert!(rig.orders().iter().any(|effect| matches!(effect, Effect::Promote { .. })));
    assert_eq!(rig.core.durable().owners[&vm()], ME);
    assert!(rig.core.durable().moves.is_empty());
}

#[test]
fn a_drained_server_takes_no_vm() {
    let mut rig = Rig::in_step(paired(), &[]);
    drain(&mut rig, ME);
    rig.hear_for(1_000, &PeerBody { moves: [(vm(), ME)].into(), ..peer() });
    assert!(rig.core.durable().moves.is_empty());
}

#[test]
fn a_vm_goes_home_only_where_that_is_wanted_and_the_pair_was_well_for_long() {
    let (mut rig, body) = source();
    rig.hear_for(700_000, &body);
    assert!(rig.core.durable().moves.is_empty(), "rebalancing is off");
    let (mut rig, body) = source();
    rig.give(Input::Placement(Placement { drained: None, rebalance: true }));
    rig.hear_for(590_000, &body);
    assert!(rig.core.durable().moves.is_empty());
    rig.hear_for(10_000, &body);
    assert_eq!(rig.core.durable().moves, [(vm(), PEER)].into());
}

#[test]
fn a_state_of_before_there_were_moves_is_read_and_the_other_way_round() {
    let old = serde_json::json!({
        "node": "A", "epoch": 3, "tie": "hq", "in_sync": ["A", "B"], "solo": false,
        "override": false, "last_seen": null, "peer_watchdog": true, "owners": {"till": "B"},
    });
    let state: DurableState = serde_json::from_value(old.clone()).expect("readable");
    assert!(state.moves.is_empty());
    assert_eq!(serde_json::to_value(&state).expect("plain data"), old, "an older agent reads it");
}

#[test]
fn a_peer_that_could_not_take_a_vm_is_asked_again_when_hq_says_so_anew() {
    let (mut rig, body) = source();
    drain(&mut rig, ME);
    rig.hear_for(35_000, &body);
    assert!(rig.core.durable().moves.is_empty(), "the peer did not agree in time");
    rig.hear_for(20_000, &body);
    drain(&mut rig, ME);
    rig.hear_for(1_000, &body);
    assert!(rig.core.durable().moves.is_empty(), "nothing new was said");
    rig.give(Input::Placement(Placement::default()));
    drain(&mut rig, ME);
    rig.hear_for(1_000, &body);
    assert_eq!(rig.core.durable().moves, [(vm(), PEER)].into());
}
