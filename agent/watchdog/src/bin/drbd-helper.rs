// SPDX-License-Identifier: Apache-2.0
//! `drbd-helper EVENT RESOURCE`: what the kernel's DRBD calls.
//!
//! For `fence-peer` the agent alone decides; without its answer the volume stays frozen, so this
//! waits for it for ever. Before a resync overwrites a volume, the agent has a moment to keep a copy of
//! it; the resync begins with or without. Only the standard library is used: this must run when nothing else does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const SOCKET: &str = "/run/forecourt/agent.sock";
const RETRY: Duration = Duration::from_millis(100);
const TELL_LIMIT: Duration = Duration::from_millis(200);
/// The agent answers within 3 s. The peer's guests cannot write meanwhile, and after 6.3 s the peer
/// would drop this server.
const KEEP_LIMIT: Duration = Duration::from_secs(4);
const ANSWER_BYTES_MAX: u64 = 256;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let (event, resource) = (arg(&args, 1), arg(&args, 2));
    // Overridden by tests alone: the kernel passes no such variable.
    let socket = std::env::var("FORECOURT_AGENT_SOCKET").unwrap_or_else(|_| SOCKET.to_owned());
    let line = format!(
        "{{\"event\":\"{event}\",\"resource\":\"{resource}\",\"pid\":{}}}\n",
        std::process::id()
    );
    if event == "before-resync-target" {
        // Whatever comes of it: a refusal would drop the link.
        let _ = wait(Path::new(&socket), &line);
        return ExitCode::SUCCESS;
    }
    if event != "fence-peer" {
        // Best effort: a refusal here would drop the link.
        let _ = tell(Path::new(&socket), &line);
        return ExitCode::SUCCESS;
    }
    loop {
        if let Ok(Some(code)) = ask(Path::new(&socket), &line) {
            return ExitCode::from(code);
        }
        std::thread::sleep(RETRY);
    }
}

/// An argument, reduced to what names are made of, so that it needs no escaping.
fn arg(args: &[String], index: usize) -> String {
    let text = args.get(index).map_or("", String::as_str);
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(128).collect()
}

fn tell(socket: &Path, line: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(TELL_LIMIT))?;
    stream.write_all(line.as_bytes())
}

/// Tells the agent and waits until it is done, or has had its time.
fn wait(socket: &Path, line: &str) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(TELL_LIMIT))?;
    stream.set_read_timeout(Some(KEEP_LIMIT))?;
    stream.write_all(line.as_bytes())?;
    // One byte of the answer says that there is one.
    stream.read(&mut [0]).map(drop)
}

fn ask(socket: &Path, line: &str) -> std::io::Result<Option<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    Ok(exit_code(&answer))
}

/// The code in `{"exit":N}`, if it is one the agent may give.
fn exit_code(answer: &str) -> Option<u8> {
    let bare: String = answer.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    match bare.strip_prefix("{\"exit\":")?.strip_suffix('}')? {
        "1" => Some(1),
        "4" => Some(4),
        "6" => Some(6),
        "7" => Some(7),
        _ => None,
    }
}
