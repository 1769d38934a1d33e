// SPDX-License-Identifier: Apache-2.0
//! A check that cannot fail proves nothing: each rule broken on purpose breaks its promise.

use tests_model::{Begin, Bounds, Mutation, check};

const BOUNDS: Bounds =
    Bounds { faults: 1, window: 24, horizon: 52, grid: 4, begin: Begin::Pair, liveness: false };

/// Rounds in which the tie-break moves.
const MOVE: u32 = 4;

#[test]
fn every_rule_broken_on_purpose_breaks_its_promise() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (mutation, promise) in Mutation::ALL {
        let liveness = promise == "liveness";
        let found = [1, 2].into_iter().find_map(|faults| {
            let begin = mutation.begin();
            let window = if begin == Begin::BoxBack { MOVE } else { BOUNDS.window };
            let bounds = Bounds { faults, liveness, begin, window, ..BOUNDS };
            let checked = check(bounds, Some(mutation), Some(promise), 1);
            checked.findings.into_iter().find(|finding| finding.promise == promise)
        });
        match found {
            Some(finding) => println!("{mutation:?}: {promise} by {:?}", finding.faults()),
            None => missed.push((mutation, promise)),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn every_promise_of_the_specification_has_a_rule_that_breaks_it() {
    for promise in ["I1", "I2", "I3", "I4", "I5", "I6", "liveness"] {
        assert!(Mutation::ALL.iter().any(|(_, broken)| *broken == promise), "{promise}");
    }
}
