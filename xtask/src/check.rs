// SPDX-License-Identifier: Apache-2.0
//! The static checks of `cargo xtask test check`.

use crate::ui::Step;
use crate::{build, deps, documents, paths, sh, tidy};
use anyhow::Context;
use std::path::PathBuf;

/// One named check.
pub type Check = (&'static str, fn() -> anyhow::Result<()>);

/// The checks, cheapest first.
pub const CHECKS: [Check; 6] = [
    ("house rules", house_rules),
    ("documents", documents),
    ("formatting", formatting),
    ("shell scripts", shell_scripts),
    ("licences and duplicate crates", licences),
    ("lints", lints),
];

/// Rules no lint knows.
pub fn house_rules() -> anyhow::Result<()> {
    noted("house rules", tidy::run)
}

fn documents() -> anyhow::Result<()> {
    noted("documents", documents::run)
}

/// A check that says how much it looked at.
fn noted(name: &str, check: fn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let step = Step::start(name);
    match check() {
        Ok(note) => {
            step.done_with(&note);
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

fn formatting() -> anyhow::Result<()> {
    sh::step("formatting", build::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> anyhow::Result<()> {
    deps::ensure(deps::BUILD)?;
    let mut clippy = build::cargo();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    sh::step("lints", &mut clippy)
}

fn shell_scripts() -> anyhow::Result<()> {
    deps::ensure(deps::CHECK)?;
    let scripts = shell_files()?;
    let mut shellcheck = sh::command_in(&paths::root(), "shellcheck");
    shellcheck.arg("--external-sources").args(&scripts);
    sh::step(&format!("shell scripts ({})", scripts.len()), &mut shellcheck)
}

/// Files that are shell scripts by name or by first line.
fn shell_files() -> anyhow::Result<Vec<String>> {
    let root = paths::root();
    let mut list = sh::command_in(&root, "git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = sh::output(&mut list)?;
    let is_script = |name: &&str| {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { return false };
        let first = text.lines().next().unwrap_or("");
        let shebang = first.starts_with("#!") && (first.ends_with("sh") || first.contains("sh -"));
        shebang || name.ends_with(".sh")
    };
    Ok(names.split('\0').filter(|n| !n.is_empty()).filter(is_script).map(str::to_owned).collect())
}

fn licences() -> anyhow::Result<()> {
    let deny = cargo_deny()?;
    // The crates must be there for an offline reading of their licences.
    sh::step("fetch crates", build::cargo().args(["fetch", "--locked"]))?;
    let mut command = sh::command_in(&paths::root(), deny);
    command.args(["--offline", "--locked", "check", "--hide-inclusion-graph"]);
    command.args(["licenses", "bans", "sources"]);
    sh::step("licences and duplicate crates", &mut command)
}

/// cargo-deny from PATH, or built once into the user's cache.
fn cargo_deny() -> anyhow::Result<PathBuf> {
    if let Some(found) = sh::find("cargo-deny") {
        return Ok(found);
    }
    let root = paths::tool_cache();
    let program = root.join("bin/cargo-deny");
    if !program.is_file() {
        let mut install = build::cargo();
        // Unoptimized: its build costs minutes, its run seconds.
        install.args(["install", "cargo-deny", "--locked", "--debug", "--root"]).arg(&root);
        install.env("CARGO_PROFILE_DEV_DEBUG", "0");
        sh::step("build cargo-deny (once per machine)", &mut install)
            .context("Installing cargo-deny")?;
    }
    Ok(program)
}
