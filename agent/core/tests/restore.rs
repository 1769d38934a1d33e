// SPDX-License-Identifier: Apache-2.0
//! Going on with older data, by an operator's word, when a resync onto this server did not end.

mod rig;

use agent_core::{Disk, DurableState, Effect, Input, LinkSummary};
use provisioning_protocol::ids::Epoch;
use provisioning_protocol::peer::PeerState;
use rig::{ME, PEER, Rig, link, paired, peer};

fn half_copied() -> LinkSummary {
    LinkSummary { mine: Disk::Inconsistent, ..link(false) }
}

/// Without a vote, its volumes half copied, the peer lost.
fn stuck(link: LinkSummary) -> Rig {
    let mut rig = Rig::new(Some(DurableState { in_sync: [PEER].into(), ..paired() }), &[]);
    rig.give(Input::LinkChanged(link));
    rig.wait(10_000);
    assert_eq!(rig.core.status().state, PeerState::Wait);
    rig.orders();
    rig
}

fn asked(rig: &mut Rig) -> bool {
    rig.give(Input::OperatorRestores);
    rig.orders().iter().any(|effect| matches!(effect, Effect::RestoreVolumes))
}

fn refused(rig: &mut Rig) -> bool {
    rig.orders()
        .iter()
        .any(|effect| matches!(effect, Effect::Report { cause } if cause.code == "restore_refused"))
}

fn promotes(rig: &mut Rig) -> bool {
    rig.orders().iter().any(|effect| matches!(effect, Effect::Promote { .. }))
}

#[test]
fn a_half_copied_server_goes_on_with_older_data_by_a_persons_word_alone() {
    let mut rig = stuck(half_copied());
    rig.wait(60_000);
    assert!(!promotes(&mut rig) && !rig.core.durable().solo, "nobody asked");
    assert!(asked(&mut rig));
    rig.wait(1_000);
    assert!(!rig.core.durable().solo, "before the volumes are put back");
    rig.disk_works = false;
    rig.give(Input::VolumesRestored { ok: true });
    rig.wait(1_000);
    assert!(!promotes(&mut rig), "before it is on disk");
    rig.disk_done();
    let state = rig.core.durable().clone();
    assert!(
        state.solo && state.override_ && state.in_sync == [ME].into() && state.epoch > Epoch(5)
    );
    rig.wait(1_000);
    assert!(promotes(&mut rig), "the VM of the lost server starts here");
}

#[test]
fn the_word_counts_for_nothing_while_the_peer_is_heard_or_the_disks_are_whole() {
    let mut heard = stuck(half_copied());
    heard.hear(peer());
    heard.give(Input::OperatorRestores);
    assert!(refused(&mut heard));
    for mine in [Disk::Outdated, Disk::Consistent, Disk::Diskless] {
        let mut rig = stuck(LinkSummary { mine, ..link(false) });
        rig.give(Input::OperatorRestores);
        assert!(refused(&mut rig), "{mine:?}");
    }
    let mut rig = Rig::in_step(paired(), &[]);
    rig.give(Input::OperatorRestores);
    assert!(refused(&mut rig), "in a healthy pair");
    let mut split = stuck(LinkSummary { split_brain: true, ..half_copied() });
    split.give(Input::OperatorRestores);
    assert!(refused(&mut split), "diverged");
}

#[test]
fn a_peer_that_comes_back_meanwhile_is_what_counts() {
    let mut rig = stuck(half_copied());
    assert!(asked(&mut rig));
    rig.hear(peer());
    rig.give(Input::VolumesRestored { ok: true });
    rig.wait(500);
    assert!(!rig.core.durable().solo);
    assert!(refused(&mut rig));
}

#[test]
fn what_could_not_be_put_back_may_be_asked_for_again() {
    let mut rig = stuck(half_copied());
    assert!(asked(&mut rig));
    assert!(!asked(&mut rig), "one at a time");
    rig.give(Input::VolumesRestored { ok: false });
    rig.wait(500);
    assert!(!rig.core.durable().solo);
    assert!(asked(&mut rig));
}
