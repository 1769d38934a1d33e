// SPDX-License-Identifier: Apache-2.0
//! States no honest server wrote and messages no honest peer or witness sent.

mod rig;

use agent_core::{DurableState, Effect, Input, VmRun, WitnessMark};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::{Path, PeerBody, PeerState};
use provisioning_protocol::witness::{WitnessRecord, WitnessSwap};
use rig::{ME, PEER, Rig, link, paired, peer, record};
use std::sync::Arc;

/// What a server does that goes on, or wants to.
fn is_forward(effect: &Effect) -> bool {
    matches!(effect, Effect::AskWitness { .. } | Effect::Promote { .. } | Effect::StartVm { .. })
        || matches!(effect, Effect::AnswerHelper { code, .. } if code.thaws())
}

fn claim(rig: &mut Rig) -> WitnessSwap {
    rig.lose_peer();
    rig.wait(3_000);
    rig.swaps().into_iter().find(|swap| swap.winner == Some(ME)).expect("the witness is asked")
}

fn alone(node: NodeSlot) -> DurableState {
    DurableState { in_sync: [node].into(), solo: true, ..paired() }
}

/// Slots swapped between two servers, torn in their sense, or from a far future: each is as good as
/// none, and a server without state waits for its peer, says so, and decides nothing.
#[test]
fn a_state_this_server_cannot_have_written_leaves_it_waiting() {
    let of_the_peer = DurableState { node: PEER, ..alone(PEER) };
    let far_future = DurableState { epoch: Epoch(u64::MAX), ..alone(ME) };
    let senseless = DurableState { solo: true, ..paired() };
    let last = WitnessMark { incarnation: 1, version: 3, epoch: Epoch(u64::MAX) };
    let far_mark = DurableState { last_seen: Some(last), ..alone(ME) };
    for state in [None, Some(of_the_peer), Some(far_future), Some(far_mark), Some(senseless)] {
        let shown = format!("{state:?}");
        let mut rig = Rig::new(state, &[]);
        rig.give(Input::LinkChanged(link(false)));
        rig.wait(600_000);
        assert_eq!(rig.core.status().state, PeerState::Wait, "{shown}");
        assert!(!rig.core.durable().votes(), "{shown}");
        let orders = rig.orders();
        let forward: Vec<_> = orders.iter().filter(|order| is_forward(order)).collect();
        assert!(forward.is_empty(), "{shown}: {forward:?}");
        let told = |order: &Effect| matches!(order, Effect::Report { .. });
        assert!(orders.iter().any(told), "{shown}: nothing was said");
    }
    // The same with a sound state goes on: the above is not for want of a chance.
    let mut rig = Rig::new(Some(alone(ME)), &[]);
    rig.give(Input::LinkChanged(link(false)));
    rig.wait(600_000);
    assert!(rig.orders().iter().any(is_forward));
}

#[test]
fn a_message_with_an_absurd_epoch_or_count_changes_nothing_and_mutes_nobody() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    let before = rig.core.durable().clone();
    let absurd = PeerBody {
        epoch: Epoch(u64::MAX),
        state: PeerState::Solo,
        in_sync: [PEER].into(),
        solo: true,
        ..peer()
    };
    let heard = |seq, body: &PeerBody| Input::PeerHeard {
        path: Path::Cable,
        boot: 1,
        seq,
        body: Arc::new(body.clone()),
    };
    for _ in 0..50 {
        rig.give(heard(1_000, &absurd));
        rig.give(heard(u64::MAX, &peer()));
        rig.hear(peer());
        rig.wait(200);
    }
    assert_eq!(rig.core.durable(), &before);
    assert_eq!(rig.core.status().state, PeerState::Pair);
}

#[test]
fn a_message_at_an_older_epoch_takes_no_vote() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    let older = PeerBody { epoch: Epoch(2), in_sync: [PEER].into(), ..peer() };
    rig.hear(older);
    rig.wait(1_000);
    assert_eq!(rig.core.durable().in_sync, NodeSlot::BOTH.into());
    assert_eq!(rig.core.durable().epoch, Epoch(5));
}

#[test]
fn a_grant_is_taken_once_however_often_it_comes() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    let swap = claim(&mut rig);
    let won = WitnessRecord { version: 4, epoch: swap.epoch, winner: Some(ME), ..record() };
    let won = WitnessRecord { in_sync: [ME].into(), ..won };
    rig.answer(swap.request_id, true, won.clone());
    assert_eq!(rig.core.durable().epoch, swap.epoch);
    let after = rig.core.durable().clone();
    for _ in 0..20 {
        rig.answer(swap.request_id, true, won.clone());
        rig.answer(swap.request_id, true, WitnessRecord { epoch: Epoch(90), ..won.clone() });
        rig.wait(100);
    }
    assert_eq!(rig.core.durable().epoch, after.epoch);
    assert_eq!(rig.core.durable().in_sync, after.in_sync);
}

#[test]
fn an_answer_that_comes_three_seconds_late_still_counts_while_it_is_asked_for() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    let swap = claim(&mut rig);
    // The first try is over and the same question is open under the same id.
    rig.give(Input::WitnessUnreachable { request_id: swap.request_id });
    rig.wait(3_000);
    rig.grant(&swap);
    assert!(rig.core.durable().solo);
    assert_eq!(rig.core.durable().epoch, swap.epoch);
}

/// Found by fuzzing: the epoch after the last one overflowed.
#[test]
fn an_absurd_record_is_no_answer() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    let swap = claim(&mut rig);
    for absurd in [
        WitnessRecord { epoch: Epoch(u64::MAX), ..record() },
        WitnessRecord { version: u64::MAX, ..record() },
    ] {
        rig.answer(swap.request_id, false, absurd.clone());
        rig.answer(swap.request_id, true, absurd);
        rig.wait(4_000);
    }
    assert_eq!(rig.core.durable().epoch, Epoch(5));
    let again = rig.swaps().pop().expect("the question stays open");
    assert_eq!(again.request_id, swap.request_id);
    rig.grant(&again);
    assert!(rig.core.durable().solo);
}
