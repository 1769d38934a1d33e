// SPDX-License-Identifier: Apache-2.0
//! The lab channel: commands run inside a server over a virtio-serial port of the lab's own.
//!
//! Its other end is a unit that the lab hands to the unmodified image as a systemd credential through
//! the firmware tables. Each line to the server is `ID BASE64(command)`; lines of `ID + BASE64(part)`
//! and a last `ID .` come back. The command is wrapped so that its exit code ends its output. Lines
//! may be lost when a server dies; ids tell which answer is whose.

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Name of the port in the server.
pub const PORT_NAME: &str = "org.forecourt.lab";

/// What a command in a server came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output and error.
    pub text: String,
}

impl Output {
    /// The text of a command that must have gone well.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.code != 0 {
            bail!("exit code {}: {}", self.code, self.text.trim());
        }
        Ok(self.text)
    }
}

/// Set off from whatever a command may print.
const CODE_MARK: &str = "\n:exit-code:";
/// The code of a command whose shell did not live to tell it: killed, or no valid script.
const CODE_UNKNOWN: i32 = 255;

type Waiting = Arc<Mutex<HashMap<u64, Sender<Output>>>>;

/// An open channel to one power-on of a server.
#[derive(Debug)]
pub struct Channel {
    writer: Mutex<UnixStream>,
    waiting: Waiting,
    next: AtomicU64,
}

impl Channel {
    /// Connects to the socket of the server's virtio-serial port.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("Connecting to the lab channel")?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let waiting = Waiting::default();
        let reader = BufReader::new(stream.try_clone()?);
        let shared = Arc::clone(&waiting);
        std::thread::spawn(move || deliver(reader, &shared));
        Ok(Self { writer: Mutex::new(stream), waiting, next: AtomicU64::new(1) })
    }

    /// Runs a shell command in the server, at most `limit`.
    pub fn exec(&self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = channel();
        self.lock_waiting().insert(id, send);
        let script = format!("(\n{command}\n) </dev/null\nprintf '{CODE_MARK}%s' \"$?\"\n");
        let line = format!("{id} {}\n", STANDARD.encode(script));
        let written =
            self.writer.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
        let answer = match written {
            Ok(()) => receive.recv_timeout(limit).ok(),
            Err(error) => {
                self.lock_waiting().remove(&id);
                return Err(error).context("Writing to the lab channel");
            }
        };
        self.lock_waiting().remove(&id);
        answer.with_context(|| format!("No answer in {} s to `{command}`", limit.as_secs()))
    }

    /// Waits until the server answers: its lab unit runs.
    pub fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        // One question waits in the socket until the server's end opens; more of them would too.
        while start.elapsed() < limit {
            let pause = Duration::from_secs(20).min(limit.saturating_sub(start.elapsed()));
            if self.exec("true", pause).is_ok() {
                return Ok(());
            }
        }
        bail!("the lab channel did not answer in {} s", limit.as_secs())
    }

    fn lock_waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Sender<Output>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn deliver(mut reader: impl BufRead, waiting: &Waiting) {
    let mut parts: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match parse(&String::from_utf8_lossy(&line)) {
            Some((id, Some(part))) => parts.entry(id).or_default().extend(part),
            Some((id, None)) => {
                let output = output(&parts.remove(&id).unwrap_or_default());
                let asker = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(asker) = asker {
                    asker.send(output).ok();
                }
            }
            None => {}
        }
    }
}

/// An id with a part of the output, or with the end of it.
fn parse(line: &str) -> Option<(u64, Option<Vec<u8>>)> {
    let mut words = line.trim().split(' ');
    let id = words.next()?.parse().ok()?;
    match (words.next()?, words.next()) {
        (".", None) => Some((id, None)),
        ("+", Some(part)) => Some((id, Some(STANDARD.decode(part).ok()?))),
        _ => None,
    }
}

fn output(bytes: &[u8]) -> Output {
    let text = String::from_utf8_lossy(bytes);
    let (text, code) = text.rsplit_once(CODE_MARK).unwrap_or((&text, ""));
    Output { code: code.parse().unwrap_or(CODE_UNKNOWN), text: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Channel, Engine, Output, parse};
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    #[test]
    fn answers_reach_who_asked_and_garbage_is_skipped() {
        let dir = crate::rundir::temp_dir("chan").unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            assert!(first.starts_with("1 "), "{first}");
            stream.write_all(b"\xff\x00 half a li\n99 .\n1 + aGkK\n1 + Cjpl\n").unwrap();
            stream.write_all(b"1 + eGl0LWNvZGU6Mw==\n1 .\n").unwrap();
            lines.next().unwrap().unwrap();
        });
        let channel = Channel::connect(&path).unwrap();
        let output = channel.exec("echo hi", Duration::from_secs(5)).unwrap();
        assert_eq!((output.code, output.text.as_str()), (3, "hi\n"));
        assert!(output.ok().is_err());
        let error = channel.exec("sleep 9", Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("sleep 9"));
        server.join().unwrap();
    }

    #[test]
    fn a_shell_that_died_has_no_code_and_its_output_stays() {
        assert_eq!(super::output(b"half"), Output { code: 255, text: "half".to_owned() });
        assert_eq!(super::output(b"\n:exit-code:0"), Output { code: 0, text: String::new() });
    }

    /// The script that runs in the server, run here against a pair of pipes.
    #[test]
    fn the_servers_end_answers_with_the_code_and_the_whole_output() {
        let dir = crate::rundir::temp_dir("script").unwrap();
        let port = dir.path().join("port");
        let script = include_str!("../guest/forecourt-lab.sh")
            .replace("/dev/virtio-ports/org.forecourt.lab", port.to_str().unwrap());
        let wrapped = "(\nseq 2000; exit 7\n) </dev/null\nprintf '\n:exit-code:%s' \"$?\"\n";
        // A file serves as the port: the request is read from its start, answers go to its end.
        std::fs::write(&port, format!("5 {}\n", super::STANDARD.encode(wrapped))).unwrap();
        let script = script.replace("exec 3<>", "exec 3<").replace(">&3", ">>\"$port.out\"");
        let status =
            std::process::Command::new("sh").arg("-c").arg(script + "\nwait\n").status().unwrap();
        assert!(status.success());
        let mut bytes = Vec::new();
        let answers = std::fs::read_to_string(dir.path().join("port.out")).unwrap();
        for line in answers.lines() {
            if let Some((5, Some(part))) = parse(line) {
                bytes.extend(part);
            }
        }
        assert!(answers.ends_with("5 .\n"));
        let output = super::output(&bytes);
        assert_eq!((output.code, output.text.lines().count()), (7, 2000));
    }
}
