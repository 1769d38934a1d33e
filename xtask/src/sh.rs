// SPDX-License-Identifier: Apache-2.0
//! Runs other programs.

use crate::ui::Step;
use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines of output kept to show when a command fails.
const TAIL_LINES_MAX: usize = 200;

/// Finds a program in PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder: PathBuf| folder.join(program))
        .find(|file| file.is_file())
}

/// Runs a command with its output shown as it comes.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("Starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command as a step: its last line is the step's detail, its output is shown on failure.
pub fn step(name: &str, command: &mut Command) -> anyhow::Result<()> {
    last_lines(name, command).map(drop)
}

/// The same for a command whose last lines are worth reading when it succeeds.
pub fn step_told(name: &str, command: &mut Command) -> anyhow::Result<()> {
    for line in last_lines(name, command)? {
        println!("     {line}");
    }
    Ok(())
}

fn last_lines(name: &str, command: &mut Command) -> anyhow::Result<VecDeque<String>> {
    let step = Step::start(name);
    match watch(&step, command) {
        Ok(lines) => {
            step.done();
            Ok(lines)
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let out = command.output().with_context(|| format!("Starting `{shown}`"))?;
    if !out.status.success() {
        bail!("`{shown}` ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A command that runs in `folder`.
pub fn command_in(folder: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    command
}

fn watch(step: &Step, command: &mut Command) -> anyhow::Result<VecDeque<String>> {
    let shown = shown(command);
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("Starting `{shown}`"))?;
    // The command holds the pipe's writing end; it must be closed here for reading to end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = VecDeque::new();
    for line in lines(reader) {
        step.detail(line.trim());
        if tail.len() == TAIL_LINES_MAX {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    if !status.success() {
        for line in &tail {
            eprintln!("    {line}");
        }
        bail!("`{shown}` ended with {status}");
    }
    Ok(tail)
}

fn lines(reader: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(reader)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    if text.len() > 300 {
        text.truncate(text.floor_char_boundary(300));
        text.push('…');
    }
    text
}
