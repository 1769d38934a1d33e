// SPDX-License-Identifier: Apache-2.0
//! A few hundred seeds in every test run; `cargo xtask test` runs thousands.

use tests_sim::{Mode, Opts, run};

#[test]
fn every_promise_holds_under_faults_and_the_pair_comes_back() {
    for seed in 0..300 {
        if let Err(failure) = run(seed, Opts::new(Mode::Liveness)) {
            panic!("{failure}");
        }
    }
}
