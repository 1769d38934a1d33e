// SPDX-License-Identifier: Apache-2.0
//! The tie-break: with HQ, on site while HQ is silent (R5), and with whom it lies.

mod rig;

use agent_core::{DurableState, Effect, Input, Tie};
use provisioning_protocol::ids::Epoch;
use provisioning_protocol::peer::PeerBody;
use rig::{ME, PEER, Rig, link, paired, peer, record};

#[test]
fn a_tie_that_is_not_at_hq_stays_frozen_and_says_so() {
    let mut rig = Rig::in_step(DurableState { tie: Tie::Node(PEER), ..paired() }, &[]);
    rig.lose_peer();
    rig.wait(60_000);
    assert_eq!(rig.swaps(), []);
    assert!(rig.core.status().cause.contains("only the other server"));
}

#[test]
fn the_tie_leaves_a_silent_hq_and_who_gives_it_up_writes_first() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.hear_for(60_000, &peer());
    assert_eq!(rig.core.durable().tie, Tie::Hq, "HQ answers the peer");
    rig.hear_for(2_000, &PeerBody { hq_lost: true, ..peer() });
    assert_eq!(rig.core.durable().tie, Tie::Node(PEER), "its VM runs there");
    assert_eq!((rig.core.durable().epoch, rig.core.durable().paired()), (Epoch(6), true));
    rig.orders();
    rig.lose_peer();
    rig.wait(600_000);
    assert_eq!(rig.swaps(), []);
    assert!(!rig.core.durable().solo);
    assert!(rig.core.status().cause.contains("only the other server"));
}

fn holding() -> Rig {
    let mut rig = Rig::new(Some(DurableState { tie: Tie::Node(ME), ..paired() }), &[]);
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &PeerBody { tie: Tie::Node(ME), ..peer() });
    rig
}

#[test]
fn the_holder_of_the_tie_goes_on_without_asking_anyone() {
    let mut rig = holding();
    rig.lose_peer();
    rig.orders();
    rig.wait(3_000);
    assert!(rig.core.durable().solo);
    assert_eq!(rig.swaps(), [], "nobody is asked");
}

#[test]
fn the_tie_goes_back_once_hq_answers_and_knows_the_pair() {
    let mut rig = holding();
    let body = PeerBody { tie: Tie::Node(ME), ..peer() };
    for _ in 0..100 {
        for order in rig.orders() {
            if let Effect::ReadWitness { request_id, .. } = order {
                rig.answer(request_id, false, record());
            }
        }
        rig.hear_for(200, &body);
    }
    assert_eq!((rig.core.durable().tie, rig.core.durable().epoch), (Tie::Hq, Epoch(6)));
    rig.lose_peer();
    rig.wait(5_000);
    assert!(!rig.core.durable().solo, "HQ must be asked again");
}

#[test]
fn a_tie_on_which_the_two_disagree_is_given_up_by_slot_a_alone() {
    // This is slot B: it waits for A to give up first, and then follows.
    let mut rig = Rig::in_step(DurableState { tie: Tie::Node(PEER), ..paired() }, &[]);
    rig.hear_for(5_000, &peer());
    assert_eq!(rig.core.durable().tie, Tie::Node(PEER));
    let given = PeerBody { epoch: Epoch(6), tie: Tie::Node(ME), ..peer() };
    rig.hear_for(1_000, &given);
    assert_eq!((rig.core.durable().tie, rig.core.durable().epoch), (Tie::Node(ME), Epoch(6)));
}
