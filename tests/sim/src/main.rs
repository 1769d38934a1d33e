// SPDX-License-Identifier: Apache-2.0
//! Runs seeds and says what came of them.

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;
use tests_sim::{Failure, Mode, Opts, Stats, run};

/// A sign of life after so many seeds.
const PROGRESS_SEEDS: u64 = 1_000;

/// Simulates two-server sites, one per seed, and checks every promise after every event.
#[derive(Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Run this one seed and print everything that happened.
    #[arg(long)]
    seed: Option<u64>,
    /// What to show.
    #[arg(long, value_enum, default_value = "liveness")]
    mode: ModeArg,
    /// Stop after this many failing seeds.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// Random faults for the whole run.
    Safety,
    /// Random faults, then heal, then lose one server.
    Liveness,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Safety => Self::Safety,
            ModeArg::Liveness => Self::Liveness,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|_| {}));
    let opts = Opts::new(args.mode.into());
    if let Some(seed) = args.seed {
        return one(seed, opts);
    }
    many(&args, opts)
}

fn one(seed: u64, opts: Opts) -> ExitCode {
    match tests_sim::run_traced(seed, opts) {
        (Ok(stats), trace) => {
            trace.iter().for_each(|line| println!("{line}"));
            println!("seed {seed} holds: {stats:?}");
            ExitCode::SUCCESS
        }
        (Err(failure), _) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    total: Stats,
    heal_max: u64,
    failover_max: u64,
}

impl Sum {
    fn add(&mut self, stats: Stats) {
        self.seeds += 1;
        let total = &mut self.total;
        total.steps += stats.steps;
        total.acked += stats.acked;
        total.solos += stats.solos;
        total.takeovers += stats.takeovers;
        total.evictions += stats.evictions;
        total.yields += stats.yields;
        total.pairs += stats.pairs;
        total.faults += stats.faults;
        self.heal_max = self.heal_max.max(stats.heal_ms);
        self.failover_max = self.failover_max.max(stats.failover_ms);
    }
}

fn many(args: &Args, opts: Opts) -> ExitCode {
    let started = Instant::now();
    let mut sum = Sum::default();
    let mut failures: Vec<Failure> = Vec::new();
    for seed in args.start..args.start + args.seeds {
        match run(seed, opts) {
            Ok(stats) => {
                sum.add(stats);
                if sum.seeds % PROGRESS_SEEDS == 0 && !args.json {
                    eprintln!("{} seeds, {:.0} s", sum.seeds, started.elapsed().as_secs_f64());
                }
            }
            Err(failure) => {
                eprintln!("seed {} at {} ms: {}", seed, failure.at_ms, failure.what);
                failures.push(failure);
                if failures.len() >= args.failures {
                    break;
                }
            }
        }
    }
    print_sum(args, &sum, &failures, started.elapsed().as_secs_f64());
    match failures.first() {
        None => ExitCode::SUCCESS,
        Some(first) => {
            eprintln!("{} seeds failed; see --seed {}", failures.len(), first.seed);
            ExitCode::FAILURE
        }
    }
}

fn print_sum(args: &Args, sum: &Sum, failures: &[Failure], seconds: f64) {
    let total = sum.total;
    if args.json {
        let failing: Vec<u64> = failures.iter().map(|failure| failure.seed).collect();
        let result = serde_json::json!({
            "seeds": sum.seeds, "violations": failures.len(), "failing_seeds": failing,
            "states": total.steps, "faults": total.faults, "acked_writes": total.acked,
            "solo": total.solos, "gave_way": total.yields, "paired": total.pairs, "takeovers": total.takeovers, "evictions": total.evictions,
            "heal_ms_max": sum.heal_max, "failover_ms_max": sum.failover_max, "seconds": seconds,
        });
        println!("{result}");
        return;
    }
    println!(
        "{} seeds in {seconds:.1} s, {} states checked, {} violations",
        sum.seeds,
        total.steps,
        failures.len()
    );
    println!(
        "{} faults, {} acknowledged writes, {} times alone, {} gave way, {} joins, {} takeovers, {} evictions; \
         longest: {} ms to a healthy pair, {} ms to the end of the last act",
        total.faults,
        total.acked,
        total.solos,
        total.yields,
        total.pairs,
        total.takeovers,
        total.evictions,
        sum.heal_max,
        sum.failover_max
    );
}
