// SPDX-License-Identifier: Apache-2.0
//! What a person orders, with a reason: written down first, then asked of systemd or the agent.

use agent_console::machine;
use agent_console::source::Source;
use agent_console::text::{Clean, date_time};
use anyhow::{Context, ensure};
use provisioning_protocol::console::{
    LINE_BYTES_MAX, OPERATOR_SOCKET, OperatorAnswer, OperatorOrder,
};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What people did at this server's console, a JSON object a line.
const LOG_PATH: &str = "/var/lib/forecourt/console-actions.jsonl";
/// The log is not continued past this: nobody types that much, but a stuck key might.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// The agent answers within 8 s.
const AGENT_LIMIT: Duration = Duration::from_secs(12);

#[derive(Serialize)]
struct Entry<'a> {
    at: String,
    action: &'a str,
    reason: &'a str,
}

/// Reboots, and says in words what came of it. Outside a server it only writes the reason.
pub fn reboot(source: &Source, reason: &str) -> String {
    let note = write_down(source, "reboot", reason);
    if matches!(source, Source::Folder(_)) {
        return format!("{note} This is no server: nothing is rebooted.");
    }
    match systemctl_reboot() {
        Ok(()) => format!("{note} The server is rebooting."),
        Err(error) => format!("{note} The server does not reboot: {error:#}."),
    }
}

/// Tells the agent that the other server is off, and says in words what came of it. Outside a server
/// it only writes the reason.
pub fn declare_peer_off(source: &Source, reason: &str) -> String {
    let order = OperatorOrder::DeclarePeerOff { reason: reason.to_owned() };
    order_agent(source, "declare_peer_off", reason, &order)
}

/// Tells the agent to go on with older data, in the same way.
pub fn use_older_data(source: &Source, reason: &str) -> String {
    let order = OperatorOrder::UseOlderData { reason: reason.to_owned() };
    order_agent(source, "use_older_data", reason, &order)
}

/// Tells the agent to give up what this server holds, in the same way.
pub fn give_up_data(source: &Source, reason: &str) -> String {
    let order = OperatorOrder::GiveUpData { reason: reason.to_owned() };
    order_agent(source, "give_up_data", reason, &order)
}

fn order_agent(source: &Source, action: &str, reason: &str, order: &OperatorOrder) -> String {
    let note = write_down(source, action, reason);
    if matches!(source, Source::Folder(_)) {
        return format!("{note} This is no server: nobody is told.");
    }
    match ask(Path::new(OPERATOR_SOCKET), order) {
        Ok(answer) => format!("{note} {}", answer.text),
        Err(error) => format!("{note} The agent did not take it: {error:#}."),
    }
}

fn ask(socket: &Path, order: &OperatorOrder) -> anyhow::Result<OperatorAnswer> {
    let mut stream = UnixStream::connect(socket).context("Cannot reach the agent")?;
    stream.set_read_timeout(Some(AGENT_LIMIT)).context("Cannot limit the wait")?;
    let mut line = serde_json::to_string(order).context("Cannot word the order")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).context("Cannot send the order")?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut answer).context("No answer")?;
    serde_json::from_str(&answer).context("No valid answer")
}

/// Keeps the reason. A disk that cannot be written does not stop a person in need.
fn write_down(source: &Source, action: &str, reason: &str) -> String {
    let log = match source {
        Source::Server => Path::new(LOG_PATH).to_owned(),
        Source::Folder(dir) => dir.join("console-actions.jsonl"),
    };
    match write(&log, action, reason) {
        Ok(()) => "The reason is written down.".to_owned(),
        Err(error) => format!("The reason could not be written down: {error:#}."),
    }
}

fn write(path: &Path, action: &str, reason: &str) -> anyhow::Result<()> {
    let at = date_time(machine::read().wall_ms);
    let reason = Clean::new(reason);
    let entry = Entry { at, action, reason: reason.as_str() };
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
