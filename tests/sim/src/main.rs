// SPDX-License-Identifier: Apache-2.0
//! Runs seeds and says what came of them.

use clap::{Parser, ValueEnum};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Instant;
use tests_sim::{Explored, Failure, Fault, Grid, Mode, Opts, Stats, explore, replay, run, shrink};

/// A fifth of a run is making and dropping small maps and messages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Instead of seeds: every schedule of so many faults on a grid of times.
    #[arg(long, value_name = "FAULTS")]
    schedules: Option<usize>,
    /// Between two times of the grid, milliseconds.
    #[arg(long, default_value_t = 2_000)]
    step_ms: u64,
    /// From the first fault of a schedule to the last, milliseconds.
    #[arg(long, default_value_t = 32_000)]
    span_ms: u64,
    /// What to show.
    #[arg(long, value_enum, default_value = "liveness")]
    mode: ModeArg,
    /// Stop after this many failing seeds.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Seeds run at once; as many as there are processors if not given.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// A person at a frozen server may say, truly, that the other one is off: what they then give up is
    /// found as a violation.
    #[arg(long)]
    operator: bool,
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
    let opts = Opts { operator: args.operator, ..Opts::new(args.mode.into()) };
    if let Some(seed) = args.seed {
        return one(seed, opts);
    }
    match args.schedules {
        Some(faults) => schedules(&args, faults),
        None => many(&args, opts),
    }
}

fn schedules(args: &Args, faults: usize) -> ExitCode {
    let started = Instant::now();
    let (step_ms, span_ms) = (args.step_ms.max(100), args.span_ms);
    let grid = Grid { faults, step_ms, span_ms, seed: args.start, mutation: None };
    let (firsts, next) = (Fault::all(), AtomicUsize::new(0));
    let sum = Mutex::new(Explored::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs(args) {
            scope.spawn(|| {
                while let Some(first) = firsts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = explore(grid, *first);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.schedules += found.schedules;
                    sum.states += found.states;
                    sum.broken.extend(found.broken);
                    eprintln!("{first:?} first: {sum}, {:.0} s", started.elapsed().as_secs_f64());
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{sum} in {:.1} s", started.elapsed().as_secs_f64());
    let Some((schedule, what)) = sum.broken.iter().min_by_key(|(schedule, _)| schedule.len())
    else {
        return ExitCode::SUCCESS;
    };
    replay(grid, schedule).1.iter().for_each(|line| println!("{line}"));
    println!("{schedule:?}: {what}");
    ExitCode::FAILURE
}

fn jobs(args: &Args) -> usize {
    args.jobs.or_else(|| available_parallelism().ok()).map_or(1, NonZero::get)
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
        total.fenced += stats.fenced;
        total.cold_claims += stats.cold_claims;
        total.late_claims += stats.late_claims;
        total.evictions += stats.evictions;
        total.moves += stats.moves;
        total.live += stats.live;
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
    std::thread::scope(|scope| {
        for _ in 0..jobs(args) {
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
            "solo": total.solos, "gave_way": total.yields, "paired": total.pairs, "takeovers": total.takeovers, "moves": total.moves, "live_moves": total.live, "evictions": total.evictions, "fenced": total.fenced,
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
        "{} faults, {} acknowledged writes, {} times alone, {} gave way, {} joins, {} takeovers, {} planned moves ({} live), {} evictions, {} switched off; \
         longest: {} ms to a healthy pair, {} ms to the end of the last act",
        total.faults,
        total.acked,
        total.solos,
        total.yields,
        total.pairs,
        total.takeovers,
        total.moves,
        total.live,
        total.evictions,
        total.fenced,
        sum.heal_max,
        sum.failover_max
    );
    if args.operator {
        println!(
            "{} claims won right after a start, before {} of them the other server was heard last",
            total.cold_claims, total.late_claims
        );
    }
}
