// SPDX-License-Identifier: Apache-2.0
//! The rules one by one, on one server. (How they work together is shown by the simulator.)

mod bmc;
mod rig;

use agent_core::{Disk, DurableState, Effect, HelperCode, Input, LinkSummary, VmRun, WitnessMark};
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::{Path, PeerBody, PeerState};
use provisioning_protocol::witness::{WitnessRecord, WitnessState};
use rig::{ME, PEER, Rig, link, paired, peer, record, vm};
use std::sync::Arc;

fn claim(rig: &mut Rig) -> provisioning_protocol::witness::WitnessSwap {
    rig.lose_peer();
    rig.wait(3_000);
    rig.swaps().into_iter().find(|swap| swap.winner == Some(ME)).expect("the witness is asked")
}

fn gone_alone() -> Rig {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    rig.grant(&swap);
    assert!(rig.core.durable().solo);
    rig.orders();
    rig
}

#[test]
fn nothing_is_answered_before_the_grant_is_on_disk() {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    rig.helper(1, true);
    rig.disk_works = false;
    rig.grant(&swap);
    rig.wait(1_000);
    assert_eq!(rig.answers(), []);
    rig.disk_done();
    assert_eq!(rig.answers(), [HelperCode::Granted]);
}

#[test]
fn a_claim_without_an_answer_is_repeated_under_its_id() {
    let mut rig = Rig::in_step(paired(), &[]);
    let first = claim(&mut rig);
    rig.wait(7_000);
    let again = rig.swaps();
    assert!(again.len() >= 2 && again.iter().all(|swap| *swap == first), "{again:?}");
}

#[test]
fn an_answer_to_another_question_is_no_grant() {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    rig.answer(swap.request_id ^ 1, true, WitnessRecord { version: 9, ..record() });
    rig.wait(500);
    assert!(!rig.core.durable().solo);
}

#[test]
fn a_grant_that_does_not_say_what_was_asked_is_none() {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    rig.answer(swap.request_id, true, WitnessRecord { version: 4, ..record() });
    rig.wait(500);
    assert!(!rig.core.durable().solo);
}

#[test]
fn a_restored_witness_is_not_believed() {
    for lie in [
        WitnessRecord { incarnation: 2, ..record() },
        WitnessRecord { version: 2, ..record() },
        WitnessRecord { epoch: Epoch(4), ..record() },
    ] {
        let mut rig = Rig::in_step(paired(), &[]);
        let swap = claim(&mut rig);
        let granted = WitnessRecord { in_sync: [ME].into(), winner: Some(ME), ..lie.clone() };
        rig.answer(swap.request_id, true, granted);
        rig.wait(5_000);
        assert!(!rig.core.durable().solo, "{lie:?}");
        assert!(rig.core.status().cause.contains("not believed"), "{}", rig.core.status().cause);
        assert_eq!(rig.swaps(), []);
    }
}

#[test]
fn a_late_grant_does_not_count_once_the_link_is_back() {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    rig.give(Input::LinkChanged(link(true)));
    rig.grant(&swap);
    rig.wait(500);
    assert!(!rig.core.durable().solo);
}

#[test]
fn a_new_or_replaced_server_never_asks_for_a_grant() {
    let other = DurableState { node: PEER, ..paired() };
    for durable in [None, Some(other)] {
        let mut rig = Rig::new(durable, &[]);
        rig.give(Input::LinkChanged(link(false)));
        rig.wait(300_000);
        assert_eq!(rig.swaps(), []);
        assert_eq!(rig.core.status().state, PeerState::Wait);
    }
}

#[test]
fn a_cold_start_alone_waits_for_the_peer_before_it_asks() {
    let mut rig = Rig::new(Some(paired()), &[]);
    rig.give(Input::LinkChanged(link(false)));
    rig.wait(175_000);
    assert_eq!(rig.swaps(), []);
    rig.wait(10_000);
    assert!(!rig.swaps().is_empty());
}

#[test]
fn a_secondary_that_lost_says_six_and_a_frozen_primary_one() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.lose_peer();
    rig.orders();
    let winner =
        PeerBody { epoch: Epoch(6), in_sync: [PEER].into(), solo: true, link_up: false, ..peer() };
    rig.hear(winner);
    rig.helper(1, false);
    rig.helper(2, true);
    assert_eq!(rig.answers(), [HelperCode::Lost, HelperCode::Undecided]);
    assert_eq!(rig.core.durable().in_sync, [PEER].into());
}

#[test]
fn vms_are_evicted_only_when_every_helper_is_gone() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    rig.lose_peer();
    rig.helper(1, true);
    rig.hear(PeerBody { epoch: Epoch(6), in_sync: [PEER].into(), solo: true, ..peer() });
    rig.wait(500);
    let evicts = |effect: &Effect| matches!(effect, Effect::Evict { .. });
    assert!(!rig.ordered(evicts));
    rig.give(Input::HelperGone { id: 1 });
    assert!(rig.ordered(evicts));
    rig.give(Input::EvictDone { ok: true });
    assert_eq!(rig.core.status().state, PeerState::Wait);
}

#[test]
fn a_watchdog_is_missed_only_where_one_is_needed() {
    let missed = |rig: &Rig| rig.core.status().problems.iter().any(|p| p.contains("No watchdog"));
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::WatchdogArmed(false));
    assert!(missed(&rig));
    rig.give(Input::WatchdogArmed(true));
    rig.lose_peer();
    rig.hear(PeerBody { epoch: Epoch(6), in_sync: [PEER].into(), solo: true, ..peer() });
    rig.wait(20_000);
    assert_eq!(rig.core.status().state, PeerState::Wait);
    assert!(rig.ordered(|effect| matches!(effect, Effect::DisarmWatchdog)));
    rig.give(Input::WatchdogArmed(false));
    assert!(!missed(&rig));
}

#[test]
fn an_eviction_that_is_blocked_resets_the_server() {
    let mut rig = Rig::in_step(paired(), &[VmRun::Running]);
    rig.lose_peer();
    rig.hear(PeerBody { epoch: Epoch(6), in_sync: [PEER].into(), solo: true, ..peer() });
    rig.wait(25_000);
    assert!(rig.ordered(|effect| matches!(effect, Effect::Reset { .. })));
}

#[test]
fn the_peers_vms_wait_until_its_watchdog_must_have_fired() {
    let mut rig = gone_alone();
    let promotes = |effect: &Effect| matches!(effect, Effect::Promote { .. });
    rig.wait(20_000);
    assert!(!rig.ordered(promotes));
    rig.wait(6_000);
    assert!(rig.ordered(promotes));
}

fn prepares(effect: &Effect) -> bool {
    matches!(effect, Effect::PrepareVm { .. })
}

fn discards(effect: &Effect) -> bool {
    matches!(effect, Effect::DiscardVm { .. })
}

#[test]
fn the_peers_vms_are_loaded_while_it_is_silent_and_started_from_that() {
    let mut rig = Rig::in_step(paired(), &[]);
    let swap = claim(&mut rig);
    assert!(!rig.ordered(prepares), "claim() has drained it");
    rig.grant(&swap);
    rig.wait(30_000);
    let orders = rig.orders();
    assert!(orders.iter().any(|effect| matches!(effect, Effect::Promote { .. })));
    assert!(!orders.iter().any(|effect| prepares(effect) || discards(effect)), "{orders:?}");
    rig.give(Input::PromoteDone { vm: vm(), ok: true });
    assert!(rig.ordered(|effect| matches!(effect, Effect::StartVm { .. })));
    rig.give(Input::VmState { vm: vm(), state: VmRun::Running });
    rig.wait(1_000);
    assert!(!rig.ordered(|effect| prepares(effect) || discards(effect)));
}

#[test]
fn what_was_loaded_is_put_away_when_the_peer_is_back() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.lose_peer();
    assert_eq!(rig.orders().iter().filter(|effect| prepares(effect)).count(), 1);
    rig.hear(PeerBody { link_up: false, ..peer() });
    assert!(rig.ordered(discards));
    rig.wait(500);
    assert!(!rig.ordered(discards));
}

#[test]
fn without_a_watchdog_the_peers_vms_wait_for_its_word() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.hear(PeerBody { watchdog_armed: false, ..peer() });
    let swap = claim(&mut rig);
    rig.grant(&swap);
    rig.wait(600_000);
    let promotes = |effect: &Effect| matches!(effect, Effect::Promote { .. });
    assert!(!rig.ordered(promotes));
    let released = PeerBody {
        epoch: rig.core.durable().epoch,
        in_sync: [ME].into(),
        released: true,
        running: [].into(),
        link_up: false,
        ..peer()
    };
    rig.hear(released);
    assert!(rig.ordered(promotes));
}

#[test]
fn a_release_from_before_the_grant_is_no_release() {
    let mut rig = gone_alone();
    rig.hear(PeerBody { released: true, running: [].into(), link_up: false, ..peer() });
    assert!(!rig.ordered(|effect| matches!(effect, Effect::Promote { .. })));
}

#[test]
fn a_frozen_vm_leaves_the_lan_at_once_and_is_paused_after_five_seconds() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    rig.lose_peer();
    assert!(rig.ordered(|effect| matches!(effect, Effect::TapDown { .. })));
    let pauses = |effect: &Effect| matches!(effect, Effect::PauseVm { .. });
    rig.wait(4_500);
    assert!(!rig.ordered(pauses));
    rig.wait(1_000);
    assert!(rig.ordered(pauses));
}

#[test]
fn with_the_link_back_a_vm_serves_while_the_volumes_are_resynced() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    rig.lose_peer();
    rig.wait(6_000);
    rig.give(Input::VmState { vm: vm(), state: VmRun::Paused });
    rig.orders();
    rig.give(Input::LinkChanged(LinkSummary { peers: Disk::Inconsistent, ..link(true) }));
    rig.hear_for(3_000, &PeerBody { disks_up_to_date: false, ..peer() });
    assert_eq!(rig.core.status().state, PeerState::Resync);
    assert!(rig.ordered(|effect| matches!(effect, Effect::ResumeVm { .. })));
    rig.give(Input::VmState { vm: vm(), state: VmRun::Running });
    assert!(rig.ordered(|effect| matches!(effect, Effect::TapUp { .. })));
}

#[test]
fn with_the_link_back_a_vm_that_was_handed_over_stands_still() {
    let mut rig = Rig::new(Some(paired()), &[VmRun::Paused]);
    rig.give(Input::LinkChanged(LinkSummary { peers: Disk::Inconsistent, ..link(true) }));
    rig.hear_for(5_000, &PeerBody { disks_up_to_date: false, ..peer() });
    assert_eq!(rig.core.status().state, PeerState::Resync);
    assert!(!rig.ordered(|effect| matches!(effect, Effect::ResumeVm { .. })));
}

#[test]
fn a_vm_that_the_agent_before_took_off_the_lan_is_put_back() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::new(Some(mine), &[VmRun::Running]);
    rig.give(Input::LinkChanged(link(true)));
    rig.hear_for(4_000, &peer());
    assert_eq!(rig.core.status().state, PeerState::Pair);
    assert!(rig.ordered(|effect| matches!(effect, Effect::TapUp { .. })));
}

#[test]
fn the_lease_lapses_while_a_vm_runs_without_right() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    rig.lose_peer();
    rig.wait(5_500);
    rig.orders();
    let renews = |effect: &Effect| matches!(effect, Effect::RenewLease);
    rig.wait(3_000);
    assert!(!rig.ordered(renews));
    rig.give(Input::VmState { vm: vm(), state: VmRun::Paused });
    rig.wait(200);
    assert!(rig.ordered(renews));
}

#[test]
fn after_a_pause_the_lease_is_renewed_only_when_the_link_is_known_to_have_lived() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    let renews = |effect: &Effect| matches!(effect, Effect::RenewLease);
    rig.wait(1_000);
    assert!(rig.ordered(renews));
    rig.hang(6_000);
    for _ in 0..14 {
        rig.hear(peer());
        rig.wait(200);
    }
    assert!(!rig.ordered(renews), "renewed on what was known before the pause");
    for _ in 0..3 {
        rig.hear(peer());
        rig.wait(200);
    }
    assert!(rig.ordered(renews));
}

#[test]
fn without_the_link_a_lease_is_not_renewed_while_a_frozen_vm_runs() {
    let mine = DurableState { owners: [(vm(), ME)].into(), ..paired() };
    let mut rig = Rig::in_step(mine, &[VmRun::Running]);
    rig.lose_peer();
    rig.orders();
    rig.wait(4_000);
    assert!(!rig.ordered(|effect| matches!(effect, Effect::RenewLease)));
}

#[test]
fn replayed_and_older_datagrams_change_nothing() {
    let mut rig = Rig::in_step(paired(), &[]);
    let epoch = rig.core.durable().epoch;
    let forged = PeerBody { epoch: Epoch(9), in_sync: [PEER].into(), solo: true, ..peer() };
    for seq in [1, 3] {
        let body = Arc::new(forged.clone());
        rig.give(Input::PeerHeard { path: Path::Lan, boot: 1, seq, body });
    }
    assert_eq!(rig.core.durable().epoch, epoch);
    assert_eq!(rig.core.status().state, PeerState::Pair);
}

#[test]
fn a_late_datagram_from_before_a_restart_does_not_mute_the_peer() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::PeerHeard { path: Path::Lan, boot: 7, seq: 900, body: Arc::new(peer()) });
    for _ in 0..20 {
        rig.hear(peer());
        rig.wait(200);
    }
    assert_eq!(rig.core.status().state, PeerState::Pair);
    assert_eq!(rig.core.status().paths, Path::BOTH.into());
}

#[test]
fn a_restarted_peer_is_heard_and_its_old_datagrams_no_more() {
    let mut rig = Rig::in_step(paired(), &[]);
    let heard = |rig: &mut Rig, boot, seq| {
        rig.give(Input::PeerHeard { path: Path::Lan, boot, seq, body: Arc::new(peer()) });
        rig.core.status().paths.contains(&Path::Lan)
    };
    rig.wait(1_500);
    assert!(heard(&mut rig, 2, 1));
    rig.wait(1_500);
    assert!(!heard(&mut rig, 1, 5_000), "a straggler counted as a sign of life");
    assert!(heard(&mut rig, 2, 2));
    rig.wait(10_000);
    assert!(heard(&mut rig, 1, 5_001), "muted for ever");
}

#[test]
fn a_dead_path_is_left_without_giving_anything_up() {
    let mut rig = Rig::in_step(paired(), &[]);
    for seq in 100..110 {
        rig.wait(200);
        let body = Arc::new(PeerBody { hears: [Path::Lan].into(), ..peer() });
        rig.give(Input::PeerHeard { path: Path::Lan, boot: 1, seq, body });
    }
    assert!(rig.ordered(|effect| *effect == Effect::SwitchPath { path: Path::Lan }));
    assert_eq!(rig.core.durable().in_sync, NodeSlot::BOTH.into());
}

#[test]
fn a_server_gives_way_only_when_asked_and_outdates_itself_first() {
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::LinkChanged(link(false)));
    let ask = provisioning_protocol::peer::Agreement {
        epoch: Epoch(7),
        in_sync: [PEER].into(),
        durable: false,
        outdated: false,
    };
    rig.hear(PeerBody { link_up: false, ..peer() });
    assert_eq!(rig.core.durable().in_sync, NodeSlot::BOTH.into());
    rig.hear(PeerBody { link_up: false, agree: Some(ask), ..peer() });
    assert_eq!((rig.core.durable().epoch, rig.core.durable().votes()), (Epoch(7), false));
    assert!(rig.ordered(|effect| matches!(effect, Effect::Outdate)));
}

#[test]
fn the_stored_form_can_be_read_back() {
    let state = DurableState {
        last_seen: Some(WitnessMark { incarnation: 1, version: 2, epoch: Epoch(3) }),
        ..paired()
    };
    let text = serde_json::to_string(&state).expect("JSON");
    assert_eq!(serde_json::from_str::<DurableState>(&text).expect("read back"), state);
    assert!(serde_json::from_str::<DurableState>(&text.replace("\"solo\"", "\"alone\"")).is_err());
}

#[test]
fn a_witness_that_refuses_is_not_asked_in_a_rush() {
    let mut rig = Rig::in_step(paired(), &[]);
    let mut swap = claim(&mut rig);
    let mut asked = 0;
    for _ in 0..100 {
        rig.answer(swap.request_id, false, record());
        rig.wait(100);
        for next in rig.swaps() {
            asked += 1;
            swap = next;
        }
    }
    assert!((2..=8).contains(&asked), "asked {asked} times in 10 s");
}

#[test]
fn a_peer_that_leaves_three_times_an_hour_is_not_counted_in_sync_for_two_hours() {
    let mut rig = Rig::in_step(paired(), &[]);
    let mut witness = WitnessState { record: record(), last: None };
    let outdated = |rig: &Rig| PeerBody {
        epoch: rig.core.durable().epoch,
        in_sync: [ME].into(),
        running: [].into(),
        ..peer()
    };
    for left in 1..=3 {
        rig.lose_peer();
        rig.live(&mut witness, 5_000, None);
        assert!(rig.core.durable().solo, "departure {left}");
        rig.give(Input::LinkChanged(link(true)));
        let back = outdated(&rig);
        rig.live(&mut witness, 4_000, Some(&back));
        assert_eq!(rig.core.durable().paired(), left < 3, "departure {left}");
        if left < 3 {
            let joined = PeerBody { epoch: rig.core.durable().epoch, ..peer() };
            rig.live(&mut witness, 15_000, Some(&joined));
            assert_eq!(rig.core.status().state, PeerState::Pair);
        }
    }
    assert!(rig.core.status().cause.contains("again and again"));
    let back = outdated(&rig);
    rig.live(&mut witness, 7_190_000, Some(&back));
    assert!(!rig.core.durable().paired(), "it has not been two hours");
    rig.live(&mut witness, 20_000, Some(&back));
    assert!(rig.core.durable().paired(), "two hours later it counts again");
}
