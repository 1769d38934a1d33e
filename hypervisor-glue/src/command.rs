// SPDX-License-Identifier: Apache-2.0
//! Running programs: one door, with a time limit and bounded output, and a fake of it.

use crate::error::{GlueError, Result};
use async_trait::async_trait;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// Most bytes kept of a program's output; the rest is read and dropped.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time limit unless the command names another one.
pub const LIMIT_DEFAULT: Duration = Duration::from_secs(20);

/// A program to run.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Program name or path.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it reads on standard input; never logged.
    pub stdin: Vec<u8>,
    /// It is killed after this long.
    pub limit: Duration,
    /// Index of the first argument that is a secret; what follows is never logged.
    pub secret_from: Option<usize>,
}

impl Command {
    /// A program with its arguments.
    #[must_use]
    pub fn new<S: Into<String>>(program: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            stdin: Vec::new(),
            limit: LIMIT_DEFAULT,
            secret_from: None,
        }
    }

    /// The same with something to read.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The same with another time limit.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, with one more argument that is never logged (nor is any after it).
    #[must_use]
    pub fn secret_arg(mut self, arg: impl Into<String>) -> Self {
        self.secret_from.get_or_insert(self.args.len());
        self.args.push(arg.into());
        self
    }

    /// The command line for logs and errors: bounded, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        let until = self.secret_from.unwrap_or(self.args.len());
        let mut text = self.program.clone();
        for arg in self.args.iter().take(until) {
            text.push(' ');
            text.push_str(arg);
        }
        if until < self.args.len() {
            text.push_str(" …");
        }
        text.chars().take(400).collect()
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Command({})", self.shown())
    }
}

/// What a program left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, bounded.
    pub stdout: String,
    /// Standard error, bounded.
    pub stderr: String,
}

impl Finished {
    /// Whether it exited with 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// An end with 0 and this output.
    #[must_use]
    pub fn with_stdout(stdout: impl Into<String>) -> Self {
        Self { code: Some(0), stdout: stdout.into(), stderr: String::new() }
    }

    /// An end with this code and these last words.
    #[must_use]
    pub fn with_code(code: i32, stderr: impl Into<String>) -> Self {
        Self { code: Some(code), stdout: String::new(), stderr: stderr.into() }
    }
}

/// Runs programs.
#[async_trait]
pub trait CommandRunner: Send + Sync {
    /// Runs a program to its end, whatever its exit code is.
    ///
    /// # Errors
    /// [`GlueError::Spawn`] or [`GlueError::Timeout`]; the program is dead afterwards, unless it
    /// hangs in the kernel.
    async fn run(&self, command: Command) -> Result<Finished>;

    /// Runs a program that must exit with 0, and gives its output.
    ///
    /// # Errors
    /// As [`CommandRunner::run`], and [`GlueError::Failed`].
    async fn check(&self, command: Command) -> Result<String> {
        let shown = command.shown();
        let finished = self.run(command).await?;
        if finished.ok() {
            return Ok(finished.stdout);
        }
        Err(failed(shown, &finished))
    }
}

/// The error of a program that ended badly.
#[must_use]
pub fn failed(command: String, finished: &Finished) -> GlueError {
    let words = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
    GlueError::Failed {
        command,
        status: finished.code.map_or_else(|| "a signal".to_owned(), |code| format!("exit {code}")),
        code: finished.code,
        stderr: words.trim().chars().take(600).collect(),
    }
}

/// Runs programs on this server.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostRunner;

#[async_trait]
impl CommandRunner for HostRunner {
    async fn run(&self, command: Command) -> Result<Finished> {
        let limit = command.limit;
        let shown = command.shown();
        tracing::debug!(command = %shown, "run");
        tokio::time::timeout(limit, run_to_end(command))
            .await
            .map_err(|_| GlueError::Timeout { what: shown, limit })?
    }
}

async fn run_to_end(command: Command) -> Result<Finished> {
    let spawn = |source| GlueError::Spawn { program: command.program.clone(), source };
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .env("LC_ALL", "C.UTF-8")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(spawn)?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut pipe) = stdin {
            // A program that does not read its input closes the pipe: its exit code tells more.
            let _ = pipe.write_all(&command.stdin).await;
        }
    };
    let ((), stdout, stderr) = tokio::join!(feed, read_bounded(stdout), read_bounded(stderr));
    let status = child.wait().await.map_err(spawn)?;
    Ok(Finished { code: status.code(), stdout, stderr })
}

async fn read_bounded<R: AsyncRead + Unpin>(pipe: Option<R>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = pipe.read(&mut chunk).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

type Answer = Box<dyn Fn(&Command) -> Option<Finished> + Send + Sync>;

/// Answers commands from a list of rules and remembers what was asked.
#[derive(Clone, Default)]
pub struct FakeRunner {
    inner: Arc<Mutex<FakeState>>,
}

#[derive(Default)]
struct FakeState {
    answers: Vec<Answer>,
    ran: Vec<Command>,
}

impl FakeRunner {
    /// A fake that answers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, FakeState> {
        self.inner.lock().expect("no test panics while it holds the fake's state")
    }

    /// Adds a rule; later rules are asked first.
    pub fn on(&self, answer: impl Fn(&Command) -> Option<Finished> + Send + Sync + 'static) {
        self.state().answers.push(Box::new(answer));
    }

    /// Answers every command line that starts with `prefix`.
    pub fn on_prefix(&self, prefix: &str, finished: Finished) {
        let prefix = prefix.to_owned();
        self.on(move |command| command.shown().starts_with(&prefix).then(|| finished.clone()));
    }

    /// The command lines run so far, in order.
    #[must_use]
    pub fn ran(&self) -> Vec<String> {
        self.state().ran.iter().map(Command::shown).collect()
    }

    /// The commands run so far, in order.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.state().ran.clone()
    }
}

#[async_trait]
impl CommandRunner for FakeRunner {
    async fn run(&self, command: Command) -> Result<Finished> {
        let mut state = self.state();
        let answer = state.answers.iter().rev().find_map(|answer| answer(&command));
        let unknown =
            || GlueError::Missing { what: format!("answer in the fake to {}", command.shown()) };
        let result = answer.ok_or_else(unknown);
        state.ran.push(command);
        result
    }
}
