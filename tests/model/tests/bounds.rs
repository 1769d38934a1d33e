// SPDX-License-Identifier: Apache-2.0
//! Every behaviour with one fault; `cargo xtask test model` looks at two.

use tests_model::{Bounds, check};

const BOUNDS: Bounds = Bounds {
    faults: 1,
    window: 28,
    horizon: 52,
    grid: 4,
    fresh: false,
    on_site: false,
    liveness: true,
};

#[test]
fn no_fault_at_any_moment_breaks_a_promise_or_stops_the_vm_for_good() {
    let checked = check(BOUNDS, None, None, 1);
    assert!(checked.unique > 500 && checked.ended > 50, "{checked:?}");
    for turn in ["grant", "takeover", "lost", "evicted", "yielded", "joined", "tie"] {
        assert!(checked.turns.contains(&turn), "{turn} was never reached: {checked:?}");
    }
    if let Some(finding) = checked.findings.first() {
        panic!("{finding}");
    }
}

#[test]
fn with_a_witness_on_site_no_fault_breaks_a_promise_or_stops_the_vm_for_good() {
    let checked = check(Bounds { on_site: true, ..BOUNDS }, None, None, 1);
    assert!(checked.unique > 500 && checked.ended > 50, "{checked:?}");
    for turn in ["grant on site", "tie to HQ", "tie to site", "takeover", "evicted"] {
        assert!(checked.turns.contains(&turn), "{turn} was never reached: {checked:?}");
    }
    if let Some(finding) = checked.findings.first() {
        panic!("{finding}");
    }
}

#[test]
fn no_fault_while_two_new_servers_become_a_pair_breaks_a_promise_or_keeps_them_apart() {
    let checked = check(Bounds { fresh: true, ..BOUNDS }, None, None, 1);
    assert!(checked.unique > 1_000 && checked.turns.contains(&"joined"), "{checked:?}");
    if let Some(finding) = checked.findings.first() {
        panic!("{finding}");
    }
}

#[test]
fn the_same_bounds_give_the_same_states() {
    let count = || {
        let checked = check(Bounds { liveness: false, ..BOUNDS }, None, None, 1);
        (checked.unique, checked.states, checked.ended, checked.depth)
    };
    assert_eq!(count(), count());
}
