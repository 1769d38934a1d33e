// SPDX-License-Identifier: Apache-2.0
//! A few hundred seeds in every test run; `cargo xtask test` runs thousands.

use tests_sim::{Mode, Opts, run, shrink};

#[test]
fn every_promise_holds_under_faults_and_the_pair_comes_back() {
    for seed in 0..300 {
        let opts = Opts::new(Mode::Liveness);
        if let Err(failure) = run(seed, opts) {
            panic!("{}", shrink(seed, opts).unwrap_or(failure));
        }
    }
}
