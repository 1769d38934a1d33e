// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask build witness`: the witness on site as one static file, for boxes of which nothing
//! is known but their processor.
//!
//! Static against glibc: the target for musl would have to be fetched by everyone who builds, and a
//! C compiler for it with it. Names of hosts are resolved by what glibc has built in.

use crate::{build, deps, paths, sh, ui};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tests that run the program as a box would.
const TESTS: [&str; 4] = ["-p", "provisioning-witness", "--test", "process"];

/// Builds the program and sees that it is static and starts.
pub fn build() -> anyhow::Result<PathBuf> {
    deps::ensure(deps::BUILD)?;
    let host = host()?;
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.replace('-', "_").to_uppercase());
    let mut command = build::cargo();
    command.args([
        "build",
        "--release",
        "--locked",
        "-p",
        "provisioning-witness",
        "--target",
        &host,
    ]);
    command.env(flags, "-C target-feature=+crt-static");
    command.env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1");
    sh::step("build the static witness", &mut command)?;
    let program = paths::target().join(&host).join("release/forecourt-witness");
    check(&program)?;
    let bytes = std::fs::metadata(&program).context("the program")?.len();
    ui::line(&format!("{}: static, {:.1} MiB", program.display(), mebibytes(bytes)));
    Ok(program)
}

/// Builds it and runs its own tests with it.
pub fn test() -> anyhow::Result<()> {
    let program = build()?;
    let mut command = build::cargo();
    command.args(["test", "--locked", "--quiet"]).args(TESTS).env("FORECOURT_WITNESS", program);
    sh::step("the static witness as a process", &mut command)
}

fn check(program: &Path) -> anyhow::Result<()> {
    let headers = sh::output(Command::new("readelf").args(["-lW"]).arg(program))?;
    ensure!(headers.contains("LOAD"), "readelf told nothing of {}", program.display());
    ensure!(!headers.contains("INTERP"), "{} wants a loader: not static", program.display());
    let told = sh::output(Command::new(program).arg("--version").env_clear())?;
    ensure!(told.starts_with("forecourt-witness "), "{} says {told:?}", program.display());
    Ok(())
}

fn host() -> anyhow::Result<String> {
    let told = sh::output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV")?;
    ensure!(host.ends_with("-linux-gnu"), "{host} is no Linux with glibc");
    Ok(host.to_owned())
}

fn mebibytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) / 1024.0
}
