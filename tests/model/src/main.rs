// SPDX-License-Identifier: Apache-2.0
//! The model check from the command line.

use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;
use tests_model::{Bounds, Checked, check};

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
    /// Begin with two servers switched on for the first time, not with a healthy pair.
    #[arg(long)]
    fresh: bool,
    /// A witness on site, which has the tie-break.
    #[arg(long)]
    on_site: bool,
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
        fresh: cli.fresh,
        on_site: cli.on_site,
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
