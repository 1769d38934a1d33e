// SPDX-License-Identifier: Apache-2.0
//! The folder of one run: logs and disks under `target/lab`, sockets under a short path.
//!
//! A Unix socket's path has at most 107 bytes, which a checkout deep in someone's home would use up,
//! so sockets live in the temporary folder.

use crate::process::{self, PidBook};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Folders of past runs kept for their logs.
const PAST_RUNS_MAX: usize = 5;

/// A folder that is removed with the value.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Makes a new folder with a short path.
pub fn temp_dir(purpose: &str) -> anyhow::Result<TempDir> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("fclab-{}-{number}-{purpose}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("Making {}", path.display()))?;
    Ok(TempDir(path))
}

/// The folders and the pid book of one run.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    sockets: TempDir,
    book: PidBook,
}

impl RunDir {
    /// Cleans up after dead runs, then makes this run's folder under `base`.
    pub fn create(base: &Path, name: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(base).with_context(|| format!("Making {}", base.display()))?;
        clean_stale(base);
        let path = base.join(format!("{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&path).ok();
        std::fs::create_dir_all(&path)?;
        let sockets = temp_dir("s")?;
        let me = std::process::id();
        let start = process::start_ticks(me).unwrap_or(0);
        let owner = format!("{me} {start} {}\n", sockets.path().display());
        std::fs::write(path.join("owner"), owner)?;
        let book = PidBook::new(path.join("pids"));
        Ok(Self { path, sockets, book })
    }

    /// The run's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder for sockets.
    #[must_use]
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// Where the pids of children go.
    #[must_use]
    pub fn book(&self) -> &PidBook {
        &self.book
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove_disks(&self.path);
        std::fs::remove_file(self.path.join("owner")).ok();
    }
}

/// Kills what dead runs left, and removes their disks and the oldest folders.
fn clean_stale(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    let mut past = Vec::new();
    for entry in entries.flatten().filter(|e| e.path().is_dir()) {
        let path = entry.path();
        if let Ok(owner) = std::fs::read_to_string(path.join("owner")) {
            let mut words = owner.trim().splitn(3, ' ');
            let pid = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
            let start = words.next().and_then(|w| w.parse().ok());
            if start.is_some() && process::start_ticks(pid) == start {
                continue;
            }
            process::kill_recorded(&path.join("pids"));
            if let Some(sockets) = words.next().filter(|s| s.contains("fclab-")) {
                std::fs::remove_dir_all(sockets).ok();
            }
            remove_disks(&path);
            std::fs::remove_file(path.join("owner")).ok();
        }
        let modified = entry.metadata().and_then(|m| m.modified()).ok();
        past.push((modified, path));
    }
    past.sort();
    let excess = past.len().saturating_sub(PAST_RUNS_MAX);
    for (_, path) in past.drain(..excess) {
        std::fs::remove_dir_all(path).ok();
    }
}

fn remove_disks(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_disks(&path);
        } else if path.extension().is_some_and(|e| e == "raw" || e == "qcow2" || e == "vars") {
            std::fs::remove_file(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RunDir, temp_dir};

    #[test]
    fn a_dead_run_loses_its_disks_and_keeps_its_logs() {
        let base = temp_dir("base").unwrap();
        let dead = base.path().join("dead-1");
        std::fs::create_dir_all(dead.join("a")).unwrap();
        // Pid 1 with a start time that is not its own: a pid given to another since.
        std::fs::write(dead.join("owner"), "1 999999999999 /nonexistent/fclab-x\n").unwrap();
        std::fs::write(dead.join("a/data.raw"), "x").unwrap();
        std::fs::write(dead.join("a/serial.log"), "x").unwrap();
        let run = RunDir::create(base.path(), "now").unwrap();
        assert!(!dead.join("a/data.raw").exists());
        assert!(dead.join("a/serial.log").exists());
        std::fs::write(run.path().join("os.raw"), "x").unwrap();
        // A run that lives is left alone.
        let other = RunDir::create(base.path(), "other").unwrap();
        assert!(run.path().join("os.raw").exists());
        drop(other);
        let (path, sockets) = (run.path().to_owned(), run.sockets().to_owned());
        drop(run);
        assert!(path.exists() && !path.join("os.raw").exists() && !sockets.exists());
    }
}
