// SPDX-License-Identifier: Apache-2.0
//! Rebooting with a reason: written down first, then asked of systemd.

use agent_console::machine;
use agent_console::source::Source;
use agent_console::text::{Clean, date_time};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// What people did at this server's console, a JSON object a line.
const LOG_PATH: &str = "/var/lib/forecourt/console-actions.jsonl";
/// The log is not continued past this: nobody types that much, but a stuck key might.
const LOG_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Serialize)]
struct Entry<'a> {
    at: String,
    action: &'a str,
    reason: &'a str,
}

/// Reboots, and says in words what came of it. Outside a server it only writes the reason.
pub fn reboot(source: &Source, reason: &str) -> String {
    let log = match source {
        Source::Server => Path::new(LOG_PATH).to_owned(),
        Source::Folder(dir) => dir.join("console-actions.jsonl"),
    };
    // A disk that cannot be written is a reason to reboot, not one against it.
    let written = write(&log, reason);
    let note = match &written {
        Ok(()) => "The reason is written down.".to_owned(),
        Err(error) => format!("The reason could not be written down: {error:#}."),
    };
    if matches!(source, Source::Folder(_)) {
        return format!("{note} This is no server: nothing is rebooted.");
    }
    match systemctl_reboot() {
        Ok(()) => format!("{note} The server is rebooting."),
        Err(error) => format!("{note} The server does not reboot: {error:#}."),
    }
}

fn write(path: &Path, reason: &str) -> anyhow::Result<()> {
    let at = date_time(machine::read().wall_ms);
    let reason = Clean::new(reason);
    let entry = Entry { at, action: "reboot", reason: reason.as_str() };
    let mut line = serde_json::to_string(&entry).context("Cannot word the entry")?;
    line.push('\n');
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("Cannot open {}", path.display()))?;
    let length = file.metadata().context("Cannot look at the log")?.len();
    ensure!(length < LOG_BYTES_MAX, "{} is full", path.display());
    file.write_all(line.as_bytes()).context("Cannot write the log")?;
    file.sync_all().context("Cannot sync the log")
}

fn systemctl_reboot() -> anyhow::Result<()> {
    let output = Command::new("/usr/bin/systemctl")
        .args(["reboot", "--no-wall", "--no-block"])
        .output()
        .context("Cannot run systemctl")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "systemctl ended with {}: {}", output.status, said.trim());
    Ok(())
}
