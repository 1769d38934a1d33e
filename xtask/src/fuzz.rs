// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: libFuzzer on every decoder, with the compiler that is there.
//!
//! Only our own crates are instrumented (`tests/fuzz/instrumented.sh`), so that everything else is
//! shared with the build of the tests. What is found is kept in `target/fuzz/TARGET`.

use crate::args::FuzzOptions;
use crate::{build, deps, paths, sh, ui};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Longest input tried, bytes: twice the longest datagram, and longer than any seed.
const INPUT_BYTES_MAX: &str = "8192";
/// An input on which a decoder thinks for this long is a finding, seconds.
const INPUT_SECONDS_MAX: &str = "5";
/// Memory a decoder may take, MiB.
const MEMORY_MIB_MAX: &str = "1024";
/// Lines of a fuzzer's output shown when it found something.
const TAIL_LINES: usize = 40;

/// Builds the fuzzer and runs the targets named, or all.
pub fn run(options: &FuzzOptions) -> anyhow::Result<()> {
    let known = targets()?;
    if let Some(stranger) = options.targets.iter().find(|name| !known.contains(name)) {
        bail!("no target is called {stranger}; there are {}", known.join(", "));
    }
    let wanted = if options.targets.is_empty() { known } else { options.targets.clone() };
    let program = build_fuzzer()?;
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.get() {
            scope.spawn(|| {
                while let Some(name) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = one(&program, name, options.seconds) {
                        found.lock().expect("no thread panics").push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("no thread panics");
    if found.is_empty() { Ok(()) } else { bail!("{}", found.join("\n")) }
}

/// The targets are the folders of seeds; the crate's own tests see to it that they are the same.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = seeds();
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("Listing the seeds in {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn seeds() -> PathBuf {
    paths::root().join("tests/fuzz/data")
}

fn build_fuzzer() -> anyhow::Result<PathBuf> {
    deps::ensure(deps::BUILD)?;
    deps::ensure(deps::FUZZ)?;
    let mut command = build::cargo();
    command.args(["build", "--locked", "-p", "tests-fuzz", "--features", "libfuzzer"]);
    command.args(["--bin", "fuzz"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", paths::root().join("tests/fuzz/instrumented.sh"));
    sh::step("build the fuzzer", &mut command)?;
    Ok(paths::target().join("debug/fuzz"))
}

fn one(program: &Path, name: &str, seconds: u64) -> anyhow::Result<()> {
    let clock = ui::Stopwatch::start();
    let (found, corpus) = (paths::target().join("fuzz").join(name), seeds().join(name));
    let (log, kept) = (found.join("log"), found.join("corpus"));
    std::fs::create_dir_all(&kept).context("Making the folder of findings")?;
    let status = start(program, name, seconds, &[&kept, &corpus], &log)?.wait()?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    if status.success() {
        let runs = text.lines().rev().find(|line| line.starts_with("Done ")).unwrap_or_default();
        ui::line(&format!("  fuzz {name} ({}) {runs}", clock.human()));
        return Ok(());
    }
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("    {line}");
    }
    bail!("an input breaks it, kept in {}", found.display())
}

fn start(
    program: &Path,
    name: &str,
    seconds: u64,
    corpora: &[&Path],
    log: &Path,
) -> anyhow::Result<Child> {
    let output = std::fs::File::create(log).context("Making the log")?;
    let kept = log.parent().unwrap_or(log);
    let mut command = Command::new(program);
    command.env("FORECOURT_FUZZ_TARGET", name);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg(format!("-artifact_prefix={}/", kept.display()));
    command.args(corpora).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().context("Starting the fuzzer")
}
