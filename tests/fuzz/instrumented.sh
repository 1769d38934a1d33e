#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# RUSTC_WORKSPACE_WRAPPER of `cargo xtask fuzz`: our own crates tell libFuzzer which branches an
# input took; everything else is as built for the tests, and shared with them.
case " $* " in
    *" --crate-name build_script_build "* | *" proc-macro "* | *" -vV "*) exec "$@" ;;
esac
exec "$@" -Copt-level=1 -Ccodegen-units=16 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
