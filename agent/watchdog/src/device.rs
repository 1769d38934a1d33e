// SPDX-License-Identifier: Apache-2.0
//! The watchdog device.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the hardware shall wait, and the longest it may wait if it cannot be set.
pub const TIMEOUT_S: u64 = 10;

/// Where things are; tests use other places.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The device.
    pub device: PathBuf,
    /// The device's `timeout` attribute.
    pub timeout: PathBuf,
    /// Program that sets the timeout.
    pub wdctl: PathBuf,
    /// The second net.
    pub sysrq: PathBuf,
    /// Where the lease survives a restart of this process.
    pub state: PathBuf,
    /// The socket.
    pub socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            device: "/dev/watchdog0".into(),
            timeout: "/sys/class/watchdog/watchdog0/timeout".into(),
            wdctl: "wdctl".into(),
            sysrq: "/proc/sysrq-trigger".into(),
            state: "/run/forecourt/watchdog.lease".into(),
            socket: crate::message::SOCKET_PATH.into(),
        }
    }
}

/// An open watchdog. Dropping it does not stop the hardware; [`Device::close`] does.
#[derive(Debug)]
pub struct Device {
    file: File,
    /// How long the hardware waits.
    pub timeout_ms: u64,
}

impl Device {
    /// Sets the timeout, checks it, and starts the hardware.
    ///
    /// # Errors
    /// In words, why there is no usable device.
    pub fn open(paths: &Paths) -> Result<Self, String> {
        if !paths.device.exists() {
            return Err("this server has no watchdog device".to_owned());
        }
        let set = Command::new(&paths.wdctl)
            .args(["--settimeout", &TIMEOUT_S.to_string()])
            .arg(&paths.device)
            .output();
        let seconds = read_timeout(&paths.timeout)?;
        if seconds > TIMEOUT_S {
            let why = set.map_or_else(|err| err.to_string(), |out| words(&out.stderr));
            return Err(format!("the watchdog waits {seconds} s and cannot be set: {why}"));
        }
        let file = OpenOptions::new()
            .write(true)
            .open(&paths.device)
            .map_err(|err| format!("the watchdog device cannot be opened: {err}"))?;
        Ok(Self { file, timeout_ms: seconds * 1000 })
    }

    /// Pets.
    ///
    /// # Errors
    /// The system's answer.
    pub fn pet(&mut self) -> std::io::Result<()> {
        self.file.write_all(b"\0")
    }

    /// Stops the hardware, if it lets itself be stopped.
    ///
    /// # Errors
    /// The system's answer.
    pub fn close(mut self) -> std::io::Result<()> {
        self.file.write_all(b"V")
    }
}

fn read_timeout(path: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|err| format!("the watchdog's timeout cannot be read: {err}"))?;
    text.trim().parse().map_err(|_| "the watchdog's timeout is no number".to_owned())
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(200).collect()
}
