// SPDX-License-Identifier: Apache-2.0
//! Rule R7: the other server's BMC.

use crate::claim;
use crate::rig::{ME, PEER, Rig, link, paired, peer, record, vm};
use agent_core::{DurableState, Effect, Input, Placement, VmRun};
use provisioning_protocol::peer::{Handover, PeerBody, PeerState};
use provisioning_protocol::witness::WitnessState;

fn promotes(effect: &Effect) -> bool {
    matches!(effect, Effect::Promote { .. })
}

fn ons(effect: &Effect) -> bool {
    matches!(effect, Effect::PowerOnPeer)
}

/// Alone since just now, with the peer's BMC at hand.
fn alone() -> Rig {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::BmcConfigured(true));
    let swap = claim(&mut rig);
    rig.grant(&swap);
    assert!(rig.core.durable().solo);
    rig.wait(200);
    rig
}

/// Orders to switch the peer off since the last call.
fn shots(rig: &mut Rig) -> Vec<u64> {
    let id = |effect| match effect {
        Effect::FencePeer { id } => Some(id),
        _ => None,
    };
    rig.orders().into_iter().filter_map(id).collect()
}

#[test]
fn a_confirmed_power_off_starts_the_peers_vms_at_once_and_it_is_switched_on_again() {
    let mut rig = alone();
    let [id] = shots(&mut rig)[..] else { panic!("one order") };
    assert!(rig.core.durable().fenced, "on disk before the order");
    rig.give(Input::BmcAnswered { id, off: true });
    let orders = rig.orders();
    assert!(orders.iter().any(promotes) && !orders.iter().any(ons), "{orders:?}");
    rig.wait(12_000);
    assert!(rig.ordered(ons));
    rig.wait(50_000);
    assert!(!rig.ordered(ons), "switched on in a rush");
    rig.wait(600_000);
    assert_eq!(rig.orders().into_iter().filter(ons).count(), 2, "three in an hour at most");
}

#[test]
fn who_switches_the_peer_off_again_within_the_hour_switches_it_on_again_too() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::BmcConfigured(true));
    let mut witness = WitnessState { record: record(), last: None };
    rig.lose_peer();
    rig.live(&mut witness, 5_000, None);
    rig.give(Input::BmcAnswered { id: 1, off: true });
    rig.give(Input::PromoteDone { vm: vm(), ok: true });
    rig.give(Input::VmState { vm: vm(), state: VmRun::Running });
    rig.wait(600_000);
    assert_eq!(rig.orders().into_iter().filter(ons).count(), 3, "all there are in an hour");
    // It comes back, gets its VM again, and is lost once more.
    let at = |rig: &Rig, body: PeerBody| PeerBody { epoch: rig.core.durable().epoch, ..body };
    let without = PeerBody { owners: [(vm(), ME)].into(), running: [].into(), ..peer() };
    rig.give(Input::LinkChanged(link(true)));
    let behind = at(&rig, PeerBody { in_sync: [ME].into(), ..without.clone() });
    rig.live(&mut witness, 4_000, Some(&behind));
    let joined = at(&rig, without.clone());
    rig.live(&mut witness, 4_000, Some(&joined));
    rig.give(Input::Placement(Placement { drained: Some(ME), rebalance: false }));
    let receives = Some(Handover { vm: vm(), ticket: None });
    let agreed = PeerBody { moves: [(vm(), PEER)].into(), receives, ..joined };
    rig.live(&mut witness, 1_000, Some(&agreed));
    rig.give(Input::VmState { vm: vm(), state: VmRun::Stopped });
    rig.live(&mut witness, 1_000, Some(&agreed));
    rig.give(Input::DemoteDone { vm: vm(), ok: true });
    rig.live(&mut witness, 1_000, Some(&agreed));
    let taken = PeerBody { owners: [(vm(), PEER)].into(), ..agreed };
    rig.live(&mut witness, 1_000, Some(&taken));
    assert!(rig.core.durable().paired() && rig.core.durable().owners[&vm()] == PEER);
    rig.lose_peer();
    rig.live(&mut witness, 5_000, None);
    rig.give(Input::BmcAnswered { id: 2, off: true });
    rig.wait(12_000);
    assert!(rig.ordered(ons), "it stays off");
}

#[test]
fn only_a_server_that_is_alone_by_right_touches_the_peers_power() {
    let touches = |effect: &Effect| matches!(effect, Effect::FencePeer { .. }) || ons(effect);
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::BmcConfigured(true));
    rig.lose_peer();
    rig.wait(60_000);
    assert!(!rig.ordered(touches), "HQ has granted nothing");
    let mut rig = Rig::stuck();
    rig.give(Input::BmcConfigured(true));
    rig.wait(60_000);
    assert!(!rig.ordered(touches), "the tie-break lies elsewhere");
    rig.give(Input::BmcAnswered { id: 1, off: true });
    rig.wait(1_000);
    assert!(!rig.core.durable().solo, "a confirmation is no right to go on");
}

#[test]
fn nothing_is_switched_before_the_intention_is_on_disk() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::BmcConfigured(true));
    let swap = claim(&mut rig);
    rig.grant(&swap);
    rig.disk_works = false;
    rig.wait(5_000);
    assert_eq!(shots(&mut rig), [0; 0]);
    rig.disk_done();
    assert_eq!(shots(&mut rig).len(), 1);
}

#[test]
fn after_a_cold_start_the_order_is_given_again() {
    let unwatched = DurableState { peer_watchdog: false, ..alone().core.durable().clone() };
    let mut rig = Rig::new(Some(unwatched), &[]);
    rig.give(Input::LinkChanged(link(false)));
    rig.give(Input::BmcConfigured(true));
    rig.wait(59_000);
    assert_eq!(shots(&mut rig), [0; 0], "it looks around first");
    rig.wait(2_000);
    assert_eq!(shots(&mut rig).len(), 1);
}

#[test]
fn silence_of_the_bmc_is_no_evidence_and_it_is_asked_again() {
    let mut rig = alone();
    let [first] = shots(&mut rig)[..] else { panic!("one order") };
    rig.give(Input::BmcAnswered { id: first, off: false });
    rig.wait(9_000);
    assert_eq!(shots(&mut rig), [0; 0]);
    rig.wait(2_000);
    let [second] = shots(&mut rig)[..] else { panic!("one more") };
    rig.give(Input::BmcAnswered { id: first, off: true });
    assert!(!rig.ordered(promotes), "the answer to an order given up");
    rig.give(Input::BmcAnswered { id: second, off: true });
    assert!(rig.ordered(promotes));
}

#[test]
fn a_confirmation_is_void_once_the_peer_is_heard() {
    let mut rig = alone();
    let [id] = shots(&mut rig)[..] else { panic!("one order") };
    let behind = PeerBody { state: PeerState::Suspect, link_up: false, ..peer() };
    rig.hear(behind.clone());
    assert!(rig.ordered(|effect| *effect == Effect::SparePeer));
    rig.give(Input::BmcAnswered { id, off: true });
    rig.hear_for(2_000, &behind);
    assert!(!rig.ordered(promotes), "it talks, so it is not off");
}

#[test]
fn a_peer_that_an_operator_called_off_is_left_alone() {
    let mut rig = Rig::stuck();
    rig.give(Input::BmcConfigured(true));
    rig.give(Input::OperatorDeclares);
    assert!(rig.core.durable().solo);
    rig.wait(600_000);
    let touched = |effect: &Effect| matches!(effect, Effect::FencePeer { .. }) || ons(effect);
    assert!(!rig.ordered(touched));
}

#[test]
fn without_a_bmc_nothing_changes() {
    let mut rig = alone();
    rig.give(Input::BmcConfigured(false));
    rig.orders();
    rig.wait(17_000);
    assert!(shots(&mut rig).is_empty() && !rig.ordered(promotes));
    rig.wait(8_000);
    assert!(rig.ordered(promotes), "T_fence still counts");
}

#[test]
fn the_peers_return_ends_it() {
    let mut rig = alone();
    let [id] = shots(&mut rig)[..] else { panic!("one order") };
    rig.give(Input::BmcAnswered { id, off: true });
    rig.give(Input::LinkChanged(link(true)));
    let back = PeerBody { epoch: rig.core.durable().epoch, in_sync: [ME].into(), ..peer() };
    rig.hear_for(4_000, &back);
    assert!(rig.core.durable().paired() && !rig.core.durable().fenced);
    assert_eq!(rig.core.durable().owners.values().filter(|slot| **slot == PEER).count(), 0);
}
