// SPDX-License-Identifier: Apache-2.0
//! Stopping a QEMU that does not answer: `SIGSTOP`, and the proof that it has its effect.
//!
//! QEMU tells of `stop` only when its disks are quiet, and a frozen disk never is. A stopped
//! process needs nobody's consent, and the kernel shows it.

use std::io;
use std::path::Path;

/// QEMU has one thread a vCPU and a few more; this many it never has.
const THREADS_MAX: usize = 4096;

/// Whether no thread of the process can run guest code: it was stopped, and each thread stands still
/// or is inside the kernel, where the stop meets it before it leaves.
pub fn halted(proc: &Path, pid: u32) -> io::Result<bool> {
    let mut stopped = false;
    for task in std::fs::read_dir(proc.join(pid.to_string()).join("task"))?.take(THREADS_MAX) {
        match state(&std::fs::read_to_string(task?.path().join("stat"))?) {
            Some('T') => stopped = true,
            Some('D' | 'Z' | 'X') => {}
            _ => return Ok(false),
        }
    }
    Ok(stopped)
}

/// Whether a process has ended, its last thread included, though nobody may have asked for its exit
/// code yet. One that cannot be looked at counts as living.
pub fn ended(proc: &Path, pid: u32) -> bool {
    let folder = proc.join(pid.to_string());
    let looked = std::fs::read_to_string(folder.join("stat")).and_then(|stat| {
        let alone = std::fs::read_dir(folder.join("task"))?.take(2).count() < 2;
        Ok(alone && matches!(state(&stat), Some('Z' | 'X')))
    });
    looked.unwrap_or_else(|err| err.kind() == io::ErrorKind::NotFound)
}

/// The state in `/proc/PID/stat` (proc(5)): the field after the name, which may hold anything.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(threads: &[&str]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("temp dir");
        for (number, stat) in threads.iter().enumerate() {
            let task = proc.path().join("7/task").join(number.to_string());
            std::fs::create_dir_all(&task).expect("made");
            std::fs::write(task.join("stat"), stat).expect("written");
        }
        proc
    }

    #[test]
    fn a_process_has_ended_with_its_last_thread() {
        let cases: [(&[&str], bool); 4] = [
            (&["7 (qemu) Z 1 7"], true),
            (&["7 (qemu) S 1 7"], false),
            (&["7 (qemu) Z 1 7", "8 (worker) R 1 7"], false),
            (&["7 (Z) D 1 7"], false),
        ];
        for (threads, expected) in cases {
            let proc = process(threads);
            std::fs::write(proc.path().join("7/stat"), threads[0]).expect("written");
            assert_eq!(ended(proc.path(), 7), expected, "{threads:?}");
        }
        assert!(
            ended(tempfile::tempdir().expect("temp dir").path(), 7),
            "there is no such process"
        );
    }

    #[test]
    fn only_a_process_stopped_in_every_thread_is_halted() {
        let cases: [(&[&str], bool); 5] = [
            (&["7 (qemu) T 1 7", "8 (qemu) T 1 7"], true),
            (&["7 (qemu) T 1 7", "8 (worker) D 1 7"], true),
            (&["7 (qemu) T 1 7", "8 (CPU 0/KVM) R 1 7"], false),
            (&["7 (qemu) D 1 7"], false),
            (&["7 (a) T b) S 1 7"], false),
        ];
        for (threads, expected) in cases {
            let proc = process(threads);
            assert_eq!(halted(proc.path(), 7).expect("read"), expected, "{threads:?}");
        }
        assert!(halted(process(&[]).path(), 7).is_err(), "no such process");
    }

    #[test]
    fn a_stopped_process_is_seen_to_stand_still_and_to_go_on() {
        use rustix::process::{Pid, Signal, kill_process};
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let pid = Pid::from_child(&child);
        let seen = |expected: bool| {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while halted(Path::new("/proc"), child.id()).expect("read") != expected {
                assert!(std::time::Instant::now() < until, "halted is not {expected}");
                std::thread::yield_now();
            }
        };
        seen(false);
        kill_process(pid, Signal::STOP).expect("stopped");
        seen(true);
        kill_process(pid, Signal::CONT).expect("continued");
        seen(false);
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
