// SPDX-License-Identifier: Apache-2.0
//! The command line of `cargo xtask`.

use crate::report;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::num::NonZero;
use std::path::PathBuf;

/// Development commands of Forecourt.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// One development command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install from Debian what the other commands need, and say what.
    Deps,
    /// Build the release binaries, or one product that is not among them.
    Build {
        /// A product of its own.
        product: Option<Product>,
    },
    /// Build the OS image (cached).
    Image {
        /// Build even when nothing changed.
        #[arg(long)]
        force: bool,
        /// Take the server's programs from this folder instead of building them.
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Build the example template `parts-counter` (cached).
    Template {
        /// Folder to write it to; by default target/template.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// The main job on this machine, start to end.
    Demo(DemoOptions),
    /// Real-machine scenarios; all of them when none is named.
    Lab(LabOptions),
    /// Seeded simulation of a site: `--seeds N` or `--seed S`.
    Sim {
        /// Arguments of the simulator.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Fuzzing of every decoder, or of those named.
    Fuzz(FuzzOptions),
    /// Measurements.
    Bench(BenchOptions),
    /// What CI runs; all steps when none is named.
    Test {
        /// Steps to run, in the given order.
        steps: Vec<TestStep>,
    },
}

impl Command {
    /// The word the person typed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deps => "deps",
            Self::Build { .. } => "build",
            Self::Image { .. } => "image",
            Self::Template { .. } => "template",
            Self::Demo(_) => "demo",
            Self::Lab(_) => "lab",
            Self::Sim { .. } => "sim",
            Self::Fuzz(_) => "fuzz",
            Self::Bench(_) => "bench",
            Self::Test { .. } => "test",
        }
    }
}

/// What `build` makes besides the release binaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Product {
    /// The witness on site, as one static file.
    Witness,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub struct DemoOptions {
    /// End by itself instead of staying up until Ctrl-C.
    #[arg(long)]
    pub once: bool,
    /// Write the timings to this file, or to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = report::STDOUT, value_parser = report::named)]
    pub json: Option<PathBuf>,
}

/// Options of `lab`.
#[derive(Debug, Args)]
pub struct LabOptions {
    /// Scenarios to run; see `--list`.
    pub scenarios: Vec<String>,
    /// Print the scenarios and end.
    #[arg(long)]
    pub list: bool,
    /// Write the results to this file, or to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = report::STDOUT, value_parser = report::named)]
    pub json: Option<PathBuf>,
}

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub struct FuzzOptions {
    /// Targets to run: the folders of `tests/fuzz/data`.
    pub targets: Vec<String>,
    /// How long to try each.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Targets run at once.
    #[arg(long, default_value = "2")]
    pub jobs: NonZero<usize>,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// What to measure.
    pub name: BenchName,
    /// How often to repeat it; 10 times for `failover`, else once, if not said.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: Option<u32>,
    /// What is lost in `failover`, as in `wan-up,link-cut`, or who is killed in `peers`, as in
    /// `forecourt-bmc,pacemaker`; everything if not said.
    #[arg(long, value_delimiter = ',')]
    pub modes: Vec<String>,
    /// Write the figures to this file, or to standard output.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = report::STDOUT, value_parser = report::named)]
    pub json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// Phases of a failover, by what is lost: see `--modes`.
    Failover,
    /// Size, memory and boot time, against a stock Debian image.
    Image,
    /// Power-on to agent ready.
    Boot,
    /// The same kill, beside Debian's Pacemaker with Corosync and DRBD.
    Peers,
}

/// A step of `test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TestStep {
    /// The house rules alone: a second, before each commit.
    Tidy,
    /// Formatting, lints, licences, shell scripts, house rules.
    Check,
    /// Unit and integration tests of all crates.
    Unit,
    /// Seeded simulation.
    Sim,
    /// Ten seconds of fuzzing of each decoder.
    Fuzz,
    /// Model check: every behaviour of a pair within bounds.
    Model,
    /// The dashboard in headless Chromium.
    Web,
    /// Power by BMC: hostile ones, and sushy-tools in front of a real QEMU.
    Bmc,
    /// The witness on site as one static file: it is static, and does what its tests want.
    Witness,
    /// Real machines.
    Lab,
}

impl TestStep {
    /// What `cargo xtask test` runs when no step is named, cheapest first.
    pub const ALL: [Self; 9] = [
        Self::Check,
        Self::Unit,
        Self::Sim,
        Self::Model,
        Self::Fuzz,
        Self::Web,
        Self::Bmc,
        Self::Witness,
        Self::Lab,
    ];
}
