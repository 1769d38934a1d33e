// SPDX-License-Identifier: Apache-2.0
//! The live part of planned moves: who may go on with which memory.

mod rig;

use agent_core::{DurableState, Effect, Input, Placement, VmRun};
use provisioning_protocol::peer::{Handover, PeerBody};
use rig::{ME, PEER, Rig, link, paired, peer, vm};

fn ticket(id: u64) -> Option<Handover> {
    Some(Handover { vm: vm(), ticket: Some(id) })
}

/// This server is drained, and the peer has agreed; `receives` is what it says of the memory.
fn source(receives: Option<Handover>) -> (Rig, PeerBody) {
    let owners = [(vm(), ME)];
    let body = PeerBody { owners: owners.clone().into(), running: [].into(), ..peer() };
    let durable = DurableState { owners: owners.into(), ..paired() };
    let mut rig = Rig::new(Some(durable), &[VmRun::Running]);
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &body);
    rig.give(Input::Placement(Placement { drained: Some(ME), rebalance: false }));
    let body = PeerBody { moves: [(vm(), PEER)].into(), receives, ..body };
    rig.orders();
    rig.hear_for(1_000, &body);
    (rig, body)
}

/// The peer hands its VM over to this server, which waits for the memory under ticket 7.
fn destination() -> (Rig, PeerBody) {
    let mut rig = Rig::in_step(paired(), &[]);
    let offer = PeerBody { moves: [(vm(), ME)].into(), ..peer() };
    rig.hear_for(1_000, &offer);
    assert!(rig.orders().contains(&Effect::ReceiveVm { vm: vm() }));
    rig.give(Input::VmReceives { vm: vm(), ticket: Some(7) });
    assert_eq!(said(&mut rig).receives, ticket(7));
    (rig, offer)
}

fn given(offer: &PeerBody, handed: Option<Handover>) -> PeerBody {
    PeerBody { owners: [(vm(), ME)].into(), running: [].into(), handed, ..offer.clone() }
}

/// What this server says to its peer.
fn said(rig: &mut Rig) -> PeerBody {
    rig.orders();
    rig.wait(400);
    let said = |effect: Effect| match effect {
        Effect::SendPeer { body } => Some(*body),
        _ => None,
    };
    rig.orders().into_iter().filter_map(said).next_back().expect("it speaks")
}

/// With which memory the VM is started once its volumes are primary.
fn starts_with(rig: &mut Rig, body: &PeerBody) -> Option<Option<u64>> {
    rig.hear_for(400, body);
    rig.give(Input::PromoteDone { vm: vm(), ok: true });
    let start = |effect: Effect| match effect {
        Effect::StartVm { resume, .. } => Some(resume),
        _ => None,
    };
    rig.orders().into_iter().find_map(start)
}

fn hands(rig: &mut Rig) -> bool {
    rig.orders().contains(&Effect::HandVm { vm: vm(), ticket: 7 })
}

fn stops(rig: &mut Rig) -> bool {
    rig.orders().contains(&Effect::StopVm { vm: vm() })
}

#[test]
fn the_memory_goes_first_and_the_source_vouches_for_it_when_it_is_over() {
    let (mut rig, body) = source(ticket(7));
    assert!(hands(&mut rig));
    rig.hear_for(60_000, &body);
    let orders = rig.orders();
    let others = |effect: &Effect| matches!(effect, Effect::HandVm { .. } | Effect::StopVm { .. });
    assert!(!orders.iter().any(others), "it takes its time");
    rig.give(Input::VmHanded { vm: vm(), ticket: 7, whole: true });
    assert!(rig.orders().contains(&Effect::Demote { vm: vm() }));
    assert_eq!(rig.core.durable().owners[&vm()], ME, "its volumes are still primary");
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.hear_for(400, &body);
    assert_eq!(rig.core.durable().owners[&vm()], PEER);
    assert_eq!(said(&mut rig).handed, ticket(7));
}

#[test]
fn a_stream_that_fails_ends_in_a_move_by_restart() {
    let (mut rig, body) = source(ticket(7));
    assert!(hands(&mut rig));
    rig.give(Input::VmHanded { vm: vm(), ticket: 7, whole: false });
    rig.hear_for(400, &body);
    assert!(stops(&mut rig));
    assert_eq!(said(&mut rig).handed, None);
}

#[test]
fn a_peer_that_cannot_receive_gets_the_vm_by_restart_and_a_silent_one_after_a_while() {
    let (mut rig, _) = source(Some(Handover { vm: vm(), ticket: None }));
    assert!(stops(&mut rig));
    let (mut rig, body) = source(None);
    rig.hear_for(15_000, &body);
    assert!(!stops(&mut rig), "it may still be getting ready");
    rig.hear_for(10_000, &body);
    assert!(stops(&mut rig));
}

#[test]
fn a_stream_is_called_off_when_the_pair_is_gone_or_nobody_wants_it_any_more() {
    let keep = Effect::KeepVm { vm: vm() };
    let (mut rig, _) = source(ticket(7));
    rig.lose_peer();
    assert!(rig.orders().contains(&keep));
    let (mut rig, body) = source(ticket(7));
    rig.give(Input::Placement(Placement::default()));
    rig.hear_for(600, &body);
    assert!(rig.orders().contains(&keep));
    rig.give(Input::VmHanded { vm: vm(), ticket: 7, whole: false });
    rig.hear_for(600, &body);
    assert!(!stops(&mut rig), "it stays");
}

#[test]
fn what_has_gone_over_goes_on_there_even_if_the_drain_is_called_off() {
    let (mut rig, body) = source(ticket(7));
    rig.give(Input::VmHanded { vm: vm(), ticket: 7, whole: true });
    rig.give(Input::Placement(Placement::default()));
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.hear_for(600, &body);
    assert_eq!(rig.core.durable().owners[&vm()], PEER);
}

#[test]
fn a_source_that_starts_the_vm_itself_vouches_no_longer() {
    let (mut rig, body) = source(ticket(7));
    rig.give(Input::VmHanded { vm: vm(), ticket: 7, whole: true });
    let changed = PeerBody { moves: [].into(), receives: None, ..body };
    rig.hear_for(400, &changed);
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.hear_for(6_000, &changed);
    assert_eq!(starts_with(&mut rig, &changed), Some(None), "it boots here");
    assert_eq!(said(&mut rig).handed, None);
}

#[test]
fn the_destination_goes_on_with_the_memory_the_source_vouches_for() {
    let (mut rig, offer) = destination();
    let given = given(&offer, ticket(7));
    assert_eq!(starts_with(&mut rig, &given), Some(Some(7)));
    assert!(!rig.orders().contains(&Effect::DiscardVm { vm: vm() }));
}

#[test]
fn any_other_memory_is_put_away() {
    for handed in [None, ticket(6), Some(Handover { vm: vm(), ticket: None })] {
        let (mut rig, offer) = destination();
        let given = given(&offer, handed.clone());
        rig.hear_for(400, &given);
        assert!(rig.orders().contains(&Effect::PrepareVm { vm: vm() }), "{handed:?}");
        assert_eq!(starts_with(&mut rig, &given), Some(None), "{handed:?}");
    }
}

#[test]
fn a_memory_is_not_kept_over_a_loss_of_the_pair() {
    let (mut rig, offer) = destination();
    let given = given(&offer, ticket(7));
    rig.hear_for(400, &given);
    assert_eq!(rig.core.durable().owners[&vm()], ME);
    rig.give(Input::LinkChanged(link(false)));
    rig.hear_for(1_000, &PeerBody { link_up: false, ..given.clone() });
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &given);
    assert_eq!(starts_with(&mut rig, &given), Some(None));
}

#[test]
fn a_move_that_is_off_puts_away_the_qemu_that_waits_for_it() {
    let (mut rig, offer) = destination();
    rig.hear_for(400, &PeerBody { moves: [].into(), ..offer });
    assert!(rig.orders().contains(&Effect::DiscardVm { vm: vm() }));
    rig.give(Input::VmReceives { vm: vm(), ticket: Some(8) });
    assert_eq!(said(&mut rig).receives, None, "an answer that comes late counts no more");
}
