// SPDX-License-Identifier: Apache-2.0
//! libFuzzer's entry: one program for all targets, told by the environment which to be.

#![no_main]

use std::sync::OnceLock;
use tests_fuzz::{TARGET_VARIABLE, Target, find};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
        find(&name).expect("the environment names a target")
    });
    (target.run)(data);
});
