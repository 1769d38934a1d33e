// SPDX-License-Identifier: Apache-2.0
//! The fault matrix: what can be done to a pair, one fault a scenario, each minutes long.
//! `cargo xtask lab` runs it after the scenarios of each test run.

mod agents;
pub(crate) mod bmc;
mod boxes;
mod clocks;
mod digests;
mod disks;
mod links;
mod load;
pub(crate) mod moves;
mod power;
mod records;
mod resync;
pub(crate) mod round;
mod watchdog;
mod words;

use crate::scenario::Scenario;

/// All of them, in the order they run.
pub const MATRIX: &[&[Scenario]] = &[
    moves::MOVES,
    bmc::BMC,
    links::LINKS,
    power::POWER,
    resync::RESYNC,
    agents::AGENTS,
    disks::DISKS,
    digests::DIGESTS,
    records::RECORDS,
    boxes::BOXES,
    clocks::CLOCKS,
    watchdog::WATCHDOG,
    words::WORDS,
    load::LOAD,
];
