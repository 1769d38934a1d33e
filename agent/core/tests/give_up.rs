// SPDX-License-Identifier: Apache-2.0
//! Giving up what this server holds, by an operator's word, when the data of the two has diverged.

mod rig;

use agent_core::{DurableState, Effect, Input, LinkSummary, VmRun};
use provisioning_protocol::ids::Epoch;
use provisioning_protocol::peer::{PeerBody, PeerState};
use rig::{ME, PEER, Rig, link, paired, peer, vm};

fn diverged() -> LinkSummary {
    LinkSummary { split_brain: true, stand_alone: true, ..link(false) }
}

fn alone() -> DurableState {
    DurableState {
        epoch: Epoch(6),
        in_sync: [ME].into(),
        solo: true,
        override_: true,
        owners: [(vm(), ME)].into(),
        ..paired()
    }
}

fn peer_alone() -> PeerBody {
    PeerBody {
        epoch: Epoch(6),
        state: PeerState::Solo,
        in_sync: [PEER].into(),
        solo: true,
        link_up: false,
        ..peer()
    }
}

/// It knows that the other one goes on.
fn waits() -> PeerBody {
    PeerBody { state: PeerState::Wait, solo: false, in_sync: [ME].into(), ..peer_alone() }
}

/// Both went on alone, by a wrong word, and meet.
fn both_alone() -> Rig {
    let mut rig = Rig::new(Some(alone()), &[VmRun::Running]);
    rig.give(Input::LinkChanged(diverged()));
    rig.hear_for(5_000, &peer_alone());
    assert_eq!(rig.core.status().state, PeerState::Solo, "neither takes the other's data");
    rig
}

fn gives_up(rig: &mut Rig) -> usize {
    let orders = rig.orders();
    orders.iter().filter(|effect| matches!(effect, Effect::GiveUpVolumes)).count()
}

fn reported(rig: &mut Rig, code: &str) -> bool {
    rig.orders()
        .iter()
        .any(|effect| matches!(effect, Effect::Report { cause } if cause.code == code))
}

#[test]
fn of_two_that_went_on_alone_one_gives_its_data_up_by_a_persons_word_alone() {
    let mut rig = both_alone();
    rig.hear_for(60_000, &peer_alone());
    assert!(rig.core.status().may_give_up && gives_up(&mut rig) == 0, "nobody asked");
    rig.disk_works = false;
    rig.give(Input::OperatorGivesUp);
    rig.hear_for(1_000, &peer_alone());
    let evicts = |effect: &Effect| matches!(effect, Effect::Evict { .. });
    assert!(!rig.orders().iter().any(evicts), "before it is on disk that there is no vote");
    rig.disk_done();
    let state = rig.core.durable().clone();
    assert!(!state.votes() && !state.solo && state.epoch == Epoch(6));
    rig.hear_for(1_000, &peer_alone());
    let orders = rig.orders();
    assert!(orders.iter().any(evicts));
    let gave_up = |effect: &Effect| matches!(effect, Effect::GiveUpVolumes);
    assert!(!orders.iter().any(gave_up), "while a VM writes");
    rig.give(Input::EvictDone { ok: true });
    rig.hear_for(5_000, &peer_alone());
    assert_eq!(gives_up(&mut rig), 1);
    rig.give(Input::VolumesGivenUp { ok: true });
    assert!(reported(&mut rig, "given_up"));
    assert_eq!(rig.core.status().state, PeerState::Wait);
}

#[test]
fn the_word_counts_for_nothing_unless_the_other_one_goes_on_with_whole_disks() {
    let refused = |mut rig: Rig, why: &str| {
        rig.orders();
        assert!(!rig.core.status().may_give_up, "{why}");
        rig.give(Input::OperatorGivesUp);
        assert!(reported(&mut rig, "give_up_refused"), "{why}");
        rig.wait(2_000);
        assert_eq!(gives_up(&mut rig), 0, "{why}");
    };
    refused(Rig::in_step(paired(), &[]), "a healthy pair");
    let mut silent = both_alone();
    silent.wait(3_000);
    refused(silent, "the other one is not heard");
    let half = PeerBody { disks_up_to_date: false, ..peer_alone() };
    for body in [waits(), half] {
        let mut rig = both_alone();
        rig.hear_for(2_000, &body);
        refused(rig, "the other one has less");
    }
    let mut parted = Rig::new(Some(alone()), &[VmRun::Running]);
    parted.give(Input::LinkChanged(LinkSummary { stand_alone: true, ..link(false) }));
    parted.hear_for(5_000, &peer_alone());
    refused(parted, "not connected yet, and nothing says that they differ");
}

#[test]
fn after_a_crash_in_the_middle_the_word_may_be_given_again() {
    let lost = DurableState { in_sync: [PEER].into(), solo: false, ..alone() };
    let mut rig = Rig::new(Some(lost), &[]);
    rig.give(Input::LinkChanged(diverged()));
    rig.hear_for(5_000, &peer_alone());
    assert_eq!(gives_up(&mut rig), 0);
    rig.give(Input::OperatorGivesUp);
    rig.hear_for(400, &peer_alone());
    assert_eq!(gives_up(&mut rig), 1);
    rig.give(Input::VolumesGivenUp { ok: false });
    rig.give(Input::OperatorGivesUp);
    rig.hear_for(400, &peer_alone());
    assert_eq!(gives_up(&mut rig), 1, "it did not work the first time");
}

#[test]
fn that_it_is_done_is_reported_though_the_volumes_connect_before_it_is_told() {
    let lost = DurableState { in_sync: [PEER].into(), solo: false, ..alone() };
    let mut rig = Rig::new(Some(lost), &[]);
    rig.give(Input::LinkChanged(diverged()));
    rig.hear_for(5_000, &peer_alone());
    rig.give(Input::OperatorGivesUp);
    rig.hear_for(400, &peer_alone());
    assert_eq!(gives_up(&mut rig), 1);
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(400, &peer_alone());
    assert!(!reported(&mut rig, "given_up"), "not told yet");
    rig.give(Input::VolumesGivenUp { ok: true });
    assert!(reported(&mut rig, "given_up"));
}

#[test]
fn volumes_that_refuse_each_other_for_long_may_be_given_up_too() {
    let lost = DurableState { in_sync: [PEER].into(), solo: false, ..alone() };
    let mut rig = Rig::new(Some(lost), &[]);
    rig.give(Input::LinkChanged(LinkSummary { stand_alone: true, ..link(false) }));
    rig.hear_for(20_000, &peer_alone());
    assert!(!rig.core.status().may_give_up);
    rig.hear_for(15_000, &peer_alone());
    assert!(rig.core.status().may_give_up);
}

#[test]
fn the_survivor_listens_again_once_the_other_one_gave_its_data_up() {
    let mut rig = both_alone();
    rig.orders();
    let reconnects =
        |rig: &mut Rig| rig.orders().iter().any(|effect| matches!(effect, Effect::Reconnect));
    rig.hear_for(10_000, &peer_alone());
    assert!(!reconnects(&mut rig), "while both hold on to theirs");
    let gave_up = PeerBody { in_sync: [ME].into(), released: true, running: [].into(), ..waits() };
    rig.hear_for(4_000, &gave_up);
    assert!(reconnects(&mut rig));
}
