// SPDX-License-Identifier: Apache-2.0
//! The model check from the command line.

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use tests_model::{Begin, Bounds, Checked, check};

/// Every behaviour of a pair within bounds, checked against its promises.
#[derive(Debug, Parser)]
struct Cli {
    /// Faults in one behaviour, at most.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=6))]
    faults: u8,
    /// Rounds of half a second after the first fault in which the others may come.
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u32).range(0..=400))]
    window: u32,
    /// Rounds after the first fault at which a behaviour ends.
    #[arg(long, default_value_t = 52, value_parser = clap::value_parser!(u32).range(1..=600))]
    horizon: u32,
    /// In a quiet site faults are tried every so many rounds.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    grid: u32,
    /// What a behaviour begins with.
    #[arg(long, value_enum, default_value = "pair")]
    begin: Begin,
    /// Heal everything at the end of each behaviour, and ask for a healthy pair.
    #[arg(long)]
    liveness: bool,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let bounds = Bounds {
        faults: cli.faults,
        window: cli.window,
        horizon: cli.horizon,
        grid: cli.grid,
        begin: cli.begin,
        liveness: cli.liveness,
    };
    let begun = Instant::now();
    let checked = check(bounds, None, None, cli.threads);
    for finding in &checked.findings {
        println!("{finding}\n");
    }
    report(&checked, bounds, begun.elapsed().as_secs());
    if checked.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(checked: &Checked, bounds: Bounds, seconds: u64) {
    println!(
        "{} unique states ({} with repeats), depth {}, {} behaviours, {} inputs to the cores, \
         {} violations, {seconds} s",
        checked.unique,
        checked.states,
        checked.depth,
        checked.ended,
        checked.steps,
        checked.findings.len()
    );
    println!("turns taken: {}", checked.turns.join(", "));
    println!("bounds: {bounds:?}");
}
