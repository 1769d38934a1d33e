// SPDX-License-Identifier: Apache-2.0
//! Runs seeds and says what came of them.

use clap::{Parser, ValueEnum};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Instant;
use tests_sim::{Failure, Mode, Opts, Stats, run, shrink};

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
    /// Seeds run at once; as many as there are processors if not given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
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

/// What the threads have found so far.
#[derive(Default)]
struct Found {
    sum: Sum,
    failures: Vec<Failure>,
}

fn many(args: &Args, opts: Opts) -> ExitCode {
    let started = Instant::now();
    let (next, end) = (AtomicU64::new(args.start), args.start + args.seeds);
    let found = Mutex::new(Found::default());
    let jobs = args.jobs.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let result = run(seed, opts);
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.add(args, result, started);
                    if found.failures.len() >= args.failures {
                        next.store(end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let Found { sum, mut failures } = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|failure| failure.seed);
    print_sum(args, &sum, &failures, started.elapsed().as_secs_f64());
    let Some(first) = failures.first() else { return ExitCode::SUCCESS };
    eprintln!("{} seeds failed; the first one, made small:", failures.len());
    let small = shrink(first.seed, opts);
    eprintln!("{}", small.as_ref().unwrap_or(first));
    let left = small.as_ref().map_or(0, |small| small.caused.len());
    eprintln!(
        "{left} of {} faults are needed; --seed {} shows all",
        first.caused.len(),
        first.seed
    );
    ExitCode::FAILURE
}

impl Found {
    fn add(&mut self, args: &Args, result: Result<Stats, Failure>, started: Instant) {
        match result {
            Ok(stats) => {
                self.sum.add(stats);
                if self.sum.seeds.is_multiple_of(PROGRESS_SEEDS) && !args.json {
                    let seconds = started.elapsed().as_secs_f64();
                    eprintln!("{} of {} seeds, {seconds:.0} s", self.sum.seeds, args.seeds);
                }
            }
            Err(failure) => {
                eprintln!("seed {} at {} ms: {}", failure.seed, failure.at_ms, failure.what);
                self.failures.push(failure);
            }
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
