// SPDX-License-Identifier: Apache-2.0
//! Proving KVM by a marker guest: a `/dev/kvm` that exists may still not run ordinary guests.

use super::Accel;
use crate::command::{Command, CommandRunner};
use crate::error::{GlueError, Result};
use std::path::Path;
use std::time::Duration;

/// A boot sector that reaches long mode, takes 32 timer interrupts and says so (`marker.S`).
const MARKER: &[u8; 512] = include_bytes!("marker/marker.bin");
/// What it writes to the serial port.
const MARK: &str = "FORECOURT-MARKER";
/// What QEMU exits with when the marker is through: `(0x2a << 1) | 1`.
const EXIT: i32 = 85;
/// Firmware refuses to read a smaller disk.
const DISK_BYTES: u64 = 1 << 20;
/// Takes 0.3 s under emulation on an idle core, 20 s at the start of a busy nested server; a broken
/// KVM hangs for ever.
const LIMIT: Duration = Duration::from_secs(60);
/// A QEMU that ends in any other way says nothing about KVM: it is tried again.
const TRIES: u32 = 3;
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 2_000 });

/// Whether a marker guest gets through under KVM.
pub(super) async fn probe(
    runner: &dyn CommandRunner,
    qemu: &str,
    kvm: &Path,
    dir: &Path,
) -> Result<Accel> {
    if !kvm.exists() {
        tracing::info!("this server has no KVM");
        return Ok(Accel::Tcg);
    }
    for attempt in 1..=TRIES {
        match run_marker(runner, qemu, "kvm", dir).await? {
            Marker::Through => {
                tracing::info!("a marker guest got through under KVM");
                return Ok(Accel::Kvm);
            }
            // Emulated guests are ten times slower until the server's next boot: one hang may be a server
            // busy with its own start.
            Marker::Hung if attempt == 1 => {
                tracing::warn!("a marker guest hung under KVM: tried once more");
            }
            Marker::Hung => {
                tracing::warn!("a marker guest hung under KVM again: guests are emulated");
                return Ok(Accel::Tcg);
            }
            Marker::Ended { code, words } => {
                tracing::warn!(attempt, ?code, words, "the marker guest ended unexpectedly");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    Ok(Accel::Tcg)
}

/// What became of the marker guest.
#[derive(Debug, PartialEq, Eq)]
enum Marker {
    Through,
    Hung,
    Ended { code: Option<i32>, words: String },
}

async fn run_marker(
    runner: &dyn CommandRunner,
    qemu: &str,
    accel: &str,
    dir: &Path,
) -> Result<Marker> {
    let image = dir.join("marker.img");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&image, MARKER))
        .and_then(|()| std::fs::OpenOptions::new().write(true).open(&image)?.set_len(DISK_BYTES))
        .map_err(|err| GlueError::file("write", &image, err))?;
    let drive = format!("file={},format=raw,if=ide", image.display());
    let words = [
        "-accel",
        accel,
        "-machine",
        "q35",
        "-cpu",
        "max",
        "-m",
        "16",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
        "-drive",
        &drive,
    ];
    let result = runner.run(Command::new(qemu, words).limit(LIMIT)).await;
    let _ = std::fs::remove_file(&image);
    match result {
        Ok(finished) if finished.code == Some(EXIT) && finished.stdout.contains(MARK) => {
            Ok(Marker::Through)
        }
        Ok(finished) => {
            let words = format!("{} {}", finished.stdout.trim(), finished.stderr.trim());
            Ok(Marker::Ended { code: finished.code, words: words.chars().take(300).collect() })
        }
        Err(GlueError::Timeout { .. }) => Ok(Marker::Hung),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FakeRunner, Finished, HostRunner};
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn the_marker_gets_through_under_emulation() {
        let dir = tempfile::tempdir().expect("temp dir");
        match run_marker(&HostRunner, "qemu-system-x86_64", "tcg", dir.path()).await {
            Ok(marker) => assert_eq!(marker, Marker::Through),
            Err(GlueError::Spawn { .. }) => eprintln!("no QEMU on this machine: not tried"),
            Err(err) => panic!("{err}"),
        }
    }

    #[tokio::test]
    async fn a_kvm_that_only_exists_is_not_used() {
        let dir = tempfile::tempdir().expect("temp dir");
        let runner = FakeRunner::new();
        for wrong in [
            Finished::with_code(85, ""),
            Finished::with_code(1, "no such accelerator"),
            Finished::with_stdout(MARK),
        ] {
            runner.on_prefix("qemu", wrong);
            let accel = probe(&runner, "qemu", Path::new("/dev/null"), dir.path()).await;
            assert_eq!(accel.expect("probed"), Accel::Tcg);
        }
        let right = Finished { code: Some(85), stdout: MARK.into(), stderr: String::new() };
        runner.on_prefix("qemu", right);
        let accel = probe(&runner, "qemu", Path::new("/dev/null"), dir.path()).await;
        assert_eq!(accel.expect("probed"), Accel::Kvm);
        let accel = probe(&runner, "qemu", Path::new("/nonexistent"), dir.path()).await;
        assert_eq!(accel.expect("probed"), Accel::Tcg);
    }

    /// Its first so many commands take for ever.
    struct Slow(AtomicU32);

    #[async_trait]
    impl CommandRunner for Slow {
        async fn run(&self, command: Command) -> Result<Finished> {
            if self.0.load(Ordering::SeqCst) == 0 {
                return Ok(Finished {
                    code: Some(EXIT),
                    stdout: MARK.into(),
                    stderr: String::new(),
                });
            }
            self.0.fetch_sub(1, Ordering::SeqCst);
            Err(GlueError::Timeout { what: command.shown(), limit: LIMIT })
        }
    }

    #[tokio::test]
    async fn a_marker_that_hangs_is_believed_the_second_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        for (hangs, accel) in [(1, Accel::Kvm), (2, Accel::Tcg)] {
            let runner = Slow(AtomicU32::new(hangs));
            let found = probe(&runner, "qemu", Path::new("/dev/null"), dir.path()).await;
            assert_eq!(found.expect("probed"), accel, "{hangs} hangs");
        }
    }
}
