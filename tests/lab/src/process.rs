// SPDX-License-Identifier: Apache-2.0
//! Child processes that never outlive the lab.
//!
//! Three nets: dropping a [`Child`] kills it; `setpriv --pdeathsig KILL` has the kernel kill it when
//! this process dies in any way; and its pid is on record in the run's folder, so that the next run
//! can clean up after a crash of both (see [`crate::rundir`]).

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Where the pids of a run's children are written.
#[derive(Debug, Clone)]
pub struct PidBook(Arc<PathBuf>);

impl PidBook {
    /// A book kept in this file.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self(Arc::new(file))
    }

    fn note(&self, pid: u32, name: &str) -> anyhow::Result<()> {
        let start = start_ticks(pid).unwrap_or(0);
        let mut file = File::options().create(true).append(true).open(&*self.0)?;
        writeln!(file, "{pid} {start} {name}")?;
        Ok(())
    }
}

/// Kills the processes of a book that still run. Pids that were given to others since are spared.
pub fn kill_recorded(book: &Path) {
    let Ok(text) = std::fs::read_to_string(book) else { return };
    for line in text.lines() {
        let mut words = line.split(' ');
        let pid = words.next().and_then(|w| w.parse::<u32>().ok());
        let start = words.next().and_then(|w| w.parse::<u64>().ok());
        if let (Some(pid), Some(start)) = (pid, start)
            && start != 0
            && start_ticks(pid) == Some(start)
        {
            signal(pid, Signal::KILL);
        }
    }
}

/// When a process started, in clock ticks since boot: with the pid, it names a process for good.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the second, the name in parentheses, may hold spaces.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// A running program of the lab.
#[derive(Debug)]
pub struct Child {
    name: String,
    child: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `program`; its output goes to `log`.
    pub fn spawn<S: AsRef<OsStr>>(
        book: &PidBook,
        name: &str,
        log: &Path,
        program: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = spawn_in_keeper(command).with_context(|| format!("Starting {name}"))?;
        book.note(child.id(), name)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill(&mut self) {
        // An error means that it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to end, and kills it if it did not in time.
    pub fn stop(&mut self, limit: Duration) {
        signal(self.id(), Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.has_ended().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
    }

    /// Stops its execution, as a hang would.
    pub fn freeze(&self) {
        signal(self.id(), Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        signal(self.id(), Signal::CONT);
    }

    /// Its exit status, if it ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails with the end of its log if it ended.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.has_ended() {
            None => Ok(()),
            Some(status) => {
                Err(anyhow!("{} ended with {status}: {}", self.name, tail(&self.log, 1500)))
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until a person presses Ctrl-C, or until this process is asked to end.
pub fn wait_for_interrupt() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    signals.forever().next();
    Ok(())
}

/// The last `bytes` of a text file, for error messages.
#[must_use]
pub fn tail(file: &Path, bytes: usize) -> String {
    let data = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&data[data.len().saturating_sub(bytes)..]).trim().to_owned()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It fails only when the process is gone, which is what a caller wants or cannot help.
        kill_process(pid, signal).ok();
    }
}

type Reply = Sender<std::io::Result<std::process::Child>>;

/// Starts a command from a thread that lives as long as this process: the death signal fires when
/// the *thread* that forked ends, not when the process does.
fn spawn_in_keeper(command: Command) -> anyhow::Result<std::process::Child> {
    static KEEPER: OnceLock<Mutex<Sender<(Command, Reply)>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (send, receive) = channel::<(Command, Reply)>();
        std::thread::spawn(move || {
            for (mut command, reply) in receive {
                reply.send(command.spawn()).ok();
            }
        });
        Mutex::new(send)
    });
    let (send, receive) = channel();
    keeper
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, send))
        .map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    Ok(receive.recv()??)
}

#[cfg(test)]
mod tests {
    use super::{Child, PidBook, kill_recorded, start_ticks};
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn a_dropped_child_is_gone() {
        let dir = crate::rundir::temp_dir("drop").unwrap();
        let book = PidBook::new(dir.path().join("pids"));
        let log = dir.path().join("log");
        let child = Child::spawn(&book, "sleep", &log, Path::new("sleep"), ["60"]).unwrap();
        let pid = child.id();
        assert!(start_ticks(pid).is_some());
        drop(child);
        assert!(start_ticks(pid).is_none());
    }

    #[test]
    fn recorded_children_are_killed_and_strangers_spared() {
        let dir = crate::rundir::temp_dir("book").unwrap();
        let file = dir.path().join("pids");
        let book = PidBook::new(file.clone());
        let log = dir.path().join("log");
        let mut child = Child::spawn(&book, "sleep", &log, Path::new("sleep"), ["60"]).unwrap();
        let mut stranger = Child::spawn(
            &PidBook::new(dir.path().join("other")),
            "sleep",
            &log,
            Path::new("sleep"),
            ["60"],
        )
        .unwrap();
        let forged = format!("{} 1 sleep\n", stranger.id());
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &forged).unwrap();
        kill_recorded(&file);
        let gone =
            crate::wait::wait_for("the end", Duration::from_secs(5), || Ok(child.has_ended()));
        assert!(!gone.unwrap().success());
        assert!(stranger.has_ended().is_none());
    }
}
