// SPDX-License-Identifier: Apache-2.0
//! Every pair of faults on a coarse grid; `cargo xtask sim --schedules 2` takes a finer one.

use tests_sim::{Fault, Grid, Mutation, explore};

const GRID: Grid = Grid { faults: 2, step_ms: 8_000, span_ms: 24_000, seed: 0, mutation: None };

#[test]
fn no_two_faults_cost_data_or_keep_the_pair_apart() {
    for first in Fault::all() {
        let explored = explore(GRID, first);
        assert!(explored.schedules > 100, "{explored}");
        assert!(explored.broken.is_empty(), "{:?}", explored.broken);
    }
}

#[test]
fn one_fault_shows_a_rule_broken_on_purpose() {
    std::panic::set_hook(Box::new(|_| {}));
    for mutation in [Mutation::IgnoreFence, Mutation::KeepRunning, Mutation::ThawWithoutGrant] {
        let grid = Grid { faults: 1, mutation: Some(mutation), ..GRID };
        let broken: usize =
            Fault::all().into_iter().map(|first| explore(grid, first).broken.len()).sum();
        assert!(broken > 0, "{mutation:?} was not noticed");
    }
    let _ = std::panic::take_hook();
}
