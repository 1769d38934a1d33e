// SPDX-License-Identifier: Apache-2.0
//! What a person says: that the other server is off (R8).

mod rig;

use agent_core::{DurableState, Effect, Input};
use provisioning_protocol::peer::PeerBody;
use provisioning_protocol::witness::WitnessState;
use rig::{ME, PEER, Rig, link, paired, peer, record, vm};

#[test]
fn an_operators_word_lets_a_stuck_server_go_on_with_the_others_vms_at_once() {
    let mut rig = Rig::stuck();
    rig.give(Input::OperatorDeclares);
    assert!(rig.core.durable().solo && rig.core.durable().override_);
    rig.wait(500);
    let orders = rig.orders();
    assert!(orders.iter().any(|effect| matches!(effect, Effect::Promote { .. })), "{orders:?}");
    rig.give(Input::LinkChanged(link(true)));
    let back = PeerBody { epoch: rig.core.durable().epoch, in_sync: [ME].into(), ..peer() };
    rig.hear_for(4_000, &back);
    assert!(rig.core.durable().paired() && !rig.core.durable().override_, "its return ends it");
}

/// Nothing says that the VMs of a server without a watchdog have stopped, but a person can.
#[test]
fn a_server_without_a_watchdog_is_not_timed_out_and_an_operators_word_starts_its_vms() {
    let bare = DurableState { peer_watchdog: false, ..paired() };
    let mut rig = Rig::new(Some(bare), &[]);
    let body = || PeerBody { watchdog_armed: false, ..peer() };
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &body());
    let mut witness = WitnessState { record: record(), last: None };
    rig.lose_peer();
    rig.live(&mut witness, 120_000, None);
    assert!(rig.core.durable().solo);
    assert!(rig.core.status().cause.contains("no armed watchdog"), "{:?}", rig.core.status());
    let owner = |rig: &Rig| rig.core.durable().owners[&vm()];
    assert_eq!(owner(&rig), PEER, "it may still run there");
    let epoch = rig.core.durable().epoch;
    rig.give(Input::OperatorDeclares);
    rig.live(&mut witness, 1_000, None);
    assert!(rig.core.durable().override_ && rig.core.durable().epoch > epoch);
    assert_eq!(owner(&rig), ME);
    rig.give(Input::OperatorDeclares);
    let refused = |effect: &Effect| matches!(effect, Effect::Report { cause } if cause.code == "declare_refused");
    assert!(rig.ordered(refused), "nothing is left to say");
}

#[test]
fn an_operators_word_counts_for_nothing_against_a_peer_that_is_heard_or_without_the_newest_data() {
    let refused = |rig: &mut Rig| {
        rig.give(Input::OperatorDeclares);
        rig.wait(6_000);
        let said = |effect: &Effect| matches!(effect, Effect::Report { cause } if cause.code == "declare_refused");
        assert!(rig.ordered(said));
        assert!(!rig.core.durable().solo);
    };
    let mut rig = Rig::stuck();
    rig.hear(PeerBody { link_up: false, ..peer() });
    refused(&mut rig);
    refused(&mut Rig::in_step(paired(), &[]));
    let mut stale = Rig::new(Some(DurableState { in_sync: [PEER].into(), ..paired() }), &[]);
    stale.give(Input::LinkChanged(link(false)));
    stale.wait(10_000);
    refused(&mut stale);
}
