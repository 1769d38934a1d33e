// SPDX-License-Identifier: Apache-2.0
//! A check that cannot fail proves nothing: each rule broken on purpose must be noticed.

use tests_sim::{Mode, Mutation, Opts, run_once};

/// Seeds within which a broken rule must show.
const SEEDS: u64 = 300;

fn caught(mutation: Mutation) -> Option<String> {
    let opts = Opts { mutation: Some(mutation), ..Opts::new(Mode::Safety) };
    (0..SEEDS).find_map(|seed| run_once(seed, opts).err()).map(|failure| failure.what)
}

#[test]
fn every_rule_broken_on_purpose_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<Mutation> =
        Mutation::ALL.into_iter().filter(|mutation| caught(*mutation).is_none()).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let opts = Opts::new(Mode::Safety);
    let count = |seed| run_once(seed, opts).map(|stats| (stats.steps, stats.acked)).ok();
    for seed in 0..5 {
        assert_eq!(count(seed), count(seed), "seed {seed}");
    }
}
