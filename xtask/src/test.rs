// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: everything CI runs.

use crate::args::{FuzzOptions, LabOptions, TestStep};
use crate::{build, check, deps, fuzz, lab, paths, sh, ui, witness};
use anyhow::bail;
use std::num::NonZero;
use tests_lab::scenarios::GATE;

/// Seeds of the simulation in a test run.
const SIM_SEEDS: &str = "20000";
/// Grid of the times at which every two faults are tried.
const SCHEDULE_STEP_MS: &str = "1000";

/// What the model looks at. The last goes on for 4 s instead of 14 s, which take eight minutes.
const MODEL_RUNS: [(&str, &[&str]); 7] = [
    ("a new pair, one fault", &["--begin", "new", "--faults", "1"]),
    ("a healthy pair, two faults", &["--begin", "pair", "--faults", "2"]),
    ("a new pair with a box, one fault", &["--begin", "box-new", "--faults", "1"]),
    ("a pair with a box, two faults", &["--begin", "box-pair", "--faults", "2"]),
    ("a pair with a box and without HQ, two faults", &["--begin", "box-no-hq", "--faults", "2"]),
    ("on the way to a box, one fault", &["--begin", "box-back", "--faults", "1"]),
    ("on the way to a box, two faults", &["--begin", "box-back", "--faults", "2", "--window", "8"]),
];

/// How long each decoder is fuzzed, and how many at once.
const FUZZ_SECONDS: u64 = 10;
const FUZZ_JOBS: NonZero<usize> = NonZero::new(2).expect("two is not zero");

/// Counts what passed and keeps what failed.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
}

impl Tally {
    fn note(&mut self, name: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }
}

/// Runs these steps, or all; goes on after a failure, so that one run tells everything.
pub fn run(steps: &[TestStep]) -> anyhow::Result<()> {
    let steps = if steps.is_empty() { &TestStep::ALL[..] } else { steps };
    let mut tally = Tally::default();
    for step in steps {
        run_step(*step, &mut tally);
    }
    let failed = tally.failed.len();
    ui::line(&format!("{} passed, {failed} failed", tally.passed));
    if failed > 0 {
        bail!("failed: {}", tally.failed.join(", "));
    }
    Ok(())
}

fn run_step(step: TestStep, tally: &mut Tally) {
    match step {
        TestStep::Tidy => tally.note("house rules", check::house_rules()),
        TestStep::Check => {
            for (name, check) in check::CHECKS {
                tally.note(name, check());
            }
        }
        TestStep::Unit => tally.note("unit", unit()),
        TestStep::Sim => tally.note("sim", sim()),
        TestStep::Fuzz => tally.note("fuzz", short_fuzz()),
        TestStep::Model => tally.note("model", model()),
        TestStep::Web => tally.note("web", web()),
        TestStep::Bmc => tally.note("bmc", bmc()),
        TestStep::Witness => tally.note("witness", witness::test()),
        TestStep::Lab => lab_scenarios(tally),
    }
}

fn unit() -> anyhow::Result<()> {
    deps::ensure(deps::BUILD)?;
    let mut command = build::cargo();
    if sh::find("cargo-nextest").is_some() {
        command.args(["nextest", "run", "--locked", "--workspace", "--no-fail-fast"]);
        command.args(["--show-progress", "none", "--status-level", "fail"]);
    } else {
        command.args(["test", "--locked", "--workspace", "--no-fail-fast", "--quiet"]);
    }
    sh::step("unit tests", &mut command)
}

fn sim() -> anyhow::Result<()> {
    let run = |name: &str, args: &[&str]| {
        let mut command = build::cargo();
        command.args(["run", "--quiet", "--locked", "-p", "tests-sim", "--"]);
        sh::step(name, command.args(args))
    };
    run(&format!("simulation ({SIM_SEEDS} seeds)"), &["--seeds", SIM_SEEDS])?;
    run("simulation (every two faults)", &["--schedules", "2", "--step-ms", SCHEDULE_STEP_MS])
}

fn short_fuzz() -> anyhow::Result<()> {
    fuzz::run(&FuzzOptions { targets: Vec::new(), seconds: FUZZ_SECONDS, jobs: FUZZ_JOBS })
}

fn model() -> anyhow::Result<()> {
    for (name, args) in MODEL_RUNS {
        let mut command = build::cargo();
        command.args(["run", "--quiet", "--locked", "-p", "tests-model", "--", "--liveness"]);
        sh::step_told(&format!("model check ({name})"), command.args(args))?;
    }
    Ok(())
}

fn web() -> anyhow::Result<()> {
    deps::ensure(deps::WEB)?;
    let mut command = sh::command_in(&paths::root(), "tests/web/run");
    sh::step("the dashboard in a browser", &mut command)
}

fn bmc() -> anyhow::Result<()> {
    deps::ensure(deps::BMC)?;
    let mut command = sh::command_in(&paths::root(), "tests/redfish/run");
    sh::step("power by BMC", &mut command)
}

fn lab_scenarios(tally: &mut Tally) {
    let scenarios = GATE.iter().map(|scenario| scenario.name.to_owned()).collect();
    let options = LabOptions { scenarios, list: false, json: None };
    match lab::run_all(&options) {
        Ok(results) => {
            for result in results.scenarios {
                if let Some(first) = &result.first_error {
                    ui::line(&format!("lab {} was repeated; it had failed: {first}", result.name));
                }
                let outcome = result.error.map_or(Ok(()), |error| Err(anyhow::anyhow!(error)));
                tally.note(&format!("lab {}", result.name), outcome);
            }
        }
        Err(error) => tally.note("lab", Err(error)),
    }
}
