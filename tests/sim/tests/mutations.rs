// SPDX-License-Identifier: Apache-2.0
//! A check that cannot fail proves nothing: each rule broken on purpose must be noticed.

use tests_sim::{Mode, Mutation, Opts, run, shrink};

/// Seeds within which a broken rule must show.
const SEEDS: u64 = 300;

fn caught(mutation: Mutation) -> Option<String> {
    // The tie-break leaves HQ for certain only in the last act of a liveness run.
    let mode = if mutation == Mutation::TieToBoth { Mode::Liveness } else { Mode::Safety };
    let opts = Opts { mutation: Some(mutation), ..Opts::new(mode) };
    let failure = (0..SEEDS).find_map(|seed| run(seed, opts).err())?;
    Some(format!("{mutation:?}: seed {}: {}", failure.seed, failure.what))
}

#[test]
fn every_rule_broken_on_purpose_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    let found: Vec<(Mutation, Option<String>)> =
        Mutation::ALL.into_iter().map(|mutation| (mutation, caught(mutation))).collect();
    let _ = std::panic::take_hook();
    for text in found.iter().filter_map(|(_, text)| text.as_ref()) {
        println!("{text}");
    }
    let missed: Vec<Mutation> =
        found.iter().filter(|(_, text)| text.is_none()).map(|(mutation, _)| *mutation).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let opts = Opts::new(Mode::Safety);
    let count = |seed| run(seed, opts).map(|stats| (stats.steps, stats.acked)).ok();
    for seed in 0..5 {
        assert_eq!(count(seed), count(seed), "seed {seed}");
    }
}

#[test]
fn a_failing_seed_shrinks_to_what_a_person_can_read() {
    std::panic::set_hook(Box::new(|_| {}));
    let opts = Opts { mutation: Some(Mutation::WitnessGrantsAll), ..Opts::new(Mode::Safety) };
    let (seed, whole) =
        (0..SEEDS).find_map(|seed| Some((seed, run(seed, opts).err()?))).expect("a failing seed");
    let small = shrink(seed, opts).expect("it still fails");
    let _ = std::panic::take_hook();
    assert_eq!(small.what.split(':').next(), whole.what.split(':').next());
    assert!(
        small.caused.len() <= 2,
        "{} of {} faults: {small}",
        small.caused.len(),
        whole.caused.len()
    );
    assert!(small.trace.len() <= 120, "{} lines:\n{small}", small.trace.len());
    assert!(shrink(seed, Opts { mutation: None, ..opts }).is_none());
}
