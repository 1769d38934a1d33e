// SPDX-License-Identifier: Apache-2.0
//! Every behaviour with one fault; `cargo xtask test model` looks at two.

use tests_model::{Begin, Bounds, Checked, check};

const BOUNDS: Bounds =
    Bounds { faults: 1, window: 28, horizon: 52, grid: 4, begin: Begin::Pair, liveness: true };

/// What any pair comes to.
const TURNS: [&str; 7] = ["grant", "takeover", "lost", "evicted", "yielded", "joined", "tie"];
/// What only one with a box does.
const BOX_TURNS: [&str; 5] =
    ["HQ to box", "box to HQ", "server to box", "box to server", "grant by box"];

fn holds(begin: Begin, states: usize, turns: &[&[&str]]) -> Checked {
    let checked = check(Bounds { begin, ..BOUNDS }, None, None, 1);
    assert!(checked.unique > states && checked.ended > 50, "{checked:?}");
    for turn in turns.concat() {
        assert!(checked.turns.contains(&turn), "{turn} was never reached: {checked:?}");
    }
    if let Some(finding) = checked.findings.first() {
        panic!("{finding}");
    }
    checked
}

#[test]
fn no_fault_at_any_moment_breaks_a_promise_or_stops_the_vm_for_good() {
    let checked = holds(Begin::Pair, 500, &[&TURNS]);
    assert!(!checked.turns.iter().any(|turn| BOX_TURNS.contains(turn)), "no box: {checked:?}");
}

#[test]
fn no_fault_while_two_new_servers_become_a_pair_breaks_a_promise_or_keeps_them_apart() {
    holds(Begin::New, 1_000, &[&["joined"]]);
    holds(Begin::BoxNew, 1_000, &[&["joined", "HQ to box", "box to HQ", "grant by box"]]);
}

#[test]
fn with_a_witness_on_site_no_fault_breaks_a_promise_or_stops_the_vm_for_good() {
    holds(Begin::BoxPair, 500, &[&TURNS, &["HQ to box", "box to HQ", "grant by box"]]);
}

#[test]
fn with_a_witness_on_site_no_fault_does_so_while_hq_is_silent() {
    holds(Begin::BoxNoHq, 500, &[&TURNS, &["server to box", "box to server", "grant by box"]]);
}

#[test]
fn no_fault_while_the_tie_break_moves_to_a_box_breaks_a_promise_or_keeps_the_pair_apart() {
    holds(Begin::BoxBack, 1_000, &[&["HQ to box", "box to HQ", "grant by box"]]);
}

#[test]
fn the_same_bounds_give_the_same_states() {
    let count = |begin| {
        let checked = check(Bounds { begin, liveness: false, ..BOUNDS }, None, None, 1);
        (checked.unique, checked.states, checked.ended, checked.depth)
    };
    for begin in [Begin::Pair, Begin::BoxPair] {
        assert_eq!(count(begin), count(begin));
    }
}
