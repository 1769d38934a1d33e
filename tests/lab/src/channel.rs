// SPDX-License-Identifier: Apache-2.0
//! The lab channel: commands run inside a server over a virtio-serial port of the lab's own.
//!
//! Its other end is a unit that the lab hands to the unmodified image as a systemd credential through
//! the firmware tables. Each line to the server is `ID BASE64(command)`, each line back
//! `ID RC BASE64(output)`. Lines may be lost when a server dies; ids tell which answer is whose.

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
        let line = format!("{id} {}\n", STANDARD.encode(command));
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
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Some((id, output)) = parse(&String::from_utf8_lossy(&line)) else { continue };
        let asker = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Some(asker) = asker {
            asker.send(output).ok();
        }
    }
}

fn parse(line: &str) -> Option<(u64, Output)> {
    let mut words = line.trim().splitn(3, ' ');
    let id = words.next()?.parse().ok()?;
    let code = words.next()?.parse().ok()?;
    let text = STANDARD.decode(words.next().unwrap_or("").trim()).ok()?;
    Some((id, Output { code, text: String::from_utf8_lossy(&text).into_owned() }))
}

#[cfg(test)]
mod tests {
    use super::{Channel, parse};
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
            assert_eq!(first, "1 ZWNobyBoaQ==");
            stream.write_all(b"\xff\x00 half a li\n99 0 aGk=\n1 3 aGkK\n").unwrap();
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
    fn an_empty_output_is_an_answer() {
        assert_eq!(parse("7 0 \n").unwrap().1.text, "");
        assert_eq!(parse("7 0\n").unwrap().0, 7);
        assert!(parse("7\n").is_none());
    }
}
