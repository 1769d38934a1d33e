// SPDX-License-Identifier: Apache-2.0
//! Client of the watchdog keeper: arm, renew, disarm, one JSON line each.
//!
//! The lease is renewed by the pair loop and by nothing else, so that a loop that hangs loses
//! it. A renewal is one small write that never waits.

use crate::status::{Concern, Hub};
use agent_core::Input;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The agent's lease (ha.md 5.3, R11).
pub const LEASE_MS: u64 = 8000;
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Op {
    Arm { lease_ms: u64 },
    Renew,
    Disarm,
}

#[derive(Debug, Deserialize)]
struct Reply {
    armed: bool,
    #[serde(default)]
    reason: Option<String>,
}

/// What the loop may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Arm.
    Arm,
    /// Disarm.
    Disarm,
    /// Renew.
    Renew,
}

/// Handle of the client task.
#[derive(Debug, Clone)]
pub struct Watchdog {
    wishes: mpsc::Sender<Wish>,
}

impl Watchdog {
    /// Starts the client.
    #[must_use]
    pub fn start(path: PathBuf, inputs: mpsc::Sender<Input>, hub: Arc<Hub>) -> Self {
        // Few: if the keeper does not read, wishes are dropped, and the lease runs out.
        let (wishes, queue) = mpsc::channel(4);
        tokio::spawn(run(path, queue, inputs, hub));
        Self { wishes }
    }

    /// Asks without waiting.
    pub fn ask(&self, wish: Wish) {
        if self.wishes.try_send(wish).is_err() {
            tracing::warn!(?wish, "watchdog keeper does not keep up");
        }
    }
}

async fn run(
    path: PathBuf,
    mut wishes: mpsc::Receiver<Wish>,
    inputs: mpsc::Sender<Input>,
    hub: Arc<Hub>,
) {
    let mut open: Option<BufReader<UnixStream>> = None;
    let mut armed: Option<bool> = None;
    let mut wanted = false;
    while let Some(wish) = wishes.recv().await {
        let op = match wish {
            Wish::Arm => Op::Arm { lease_ms: LEASE_MS },
            Wish::Disarm => Op::Disarm,
            Wish::Renew => Op::Renew,
        };
        let reply = match ask(&path, &mut open, &op).await {
            Ok(reply) => reply,
            Err(_) => {
                // The keeper may have restarted: once more on a new connection.
                open = None;
                ask(&path, &mut open, &op).await.unwrap_or_else(|error| Reply {
                    armed: false,
                    reason: Some(format!("the watchdog keeper does not answer: {error}")),
                })
            }
        };
        wanted = match wish {
            Wish::Arm => true,
            Wish::Disarm => false,
            Wish::Renew => wanted,
        };
        // A renewal is news only if it shows a change: right after a start of the agent nothing
        // was ordered yet, and "not armed" would pass for the answer to an order.
        let news = match armed {
            None => reply.armed,
            Some(before) => before != reply.armed,
        };
        if news || wish != Wish::Renew {
            armed = Some(reply.armed);
            let reason = reply.reason.unwrap_or_default();
            tracing::info!(armed = reply.armed, reason, ?wish, "watchdog");
            let missing = !reply.armed && wanted;
            let words = format!("The hardware watchdog is not armed ({reason})");
            hub.problem(Concern::Watchdog, "", missing.then_some(words));
            drop(inputs.send(Input::WatchdogArmed(reply.armed)).await);
        }
    }
}

async fn ask(path: &Path, open: &mut Option<BufReader<UnixStream>>, op: &Op) -> io::Result<Reply> {
    let stream = match open {
        Some(stream) => stream,
        None => open.insert(BufReader::new(
            timeout(LIMIT, UnixStream::connect(path)).await.map_err(io::Error::other)??,
        )),
    };
    let mut line = serde_json::to_vec(op)?;
    line.push(b'\n');
    let exchange = async {
        stream.get_mut().write_all(&line).await?;
        let mut answer = String::new();
        stream.take(4096).read_line(&mut answer).await?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(serde_json::from_str(&answer)?)
    };
    let answer = timeout(LIMIT, exchange).await.map_err(io::Error::other).flatten();
    if answer.is_err() {
        *open = None;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::causes::Causes;
    use crate::status::hub::Fixed;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::net::UnixListener;

    /// A keeper that is armed once it was asked to.
    async fn keeper(listener: UnixListener, armed: Arc<AtomicBool>) {
        while let Ok((stream, _)) = listener.accept().await {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("\"arm\"") {
                    armed.store(true, Ordering::SeqCst);
                }
                let now = armed.load(Ordering::SeqCst);
                let reply = format!("{{\"armed\":{now},\"reason\":\"\"}}\n");
                drop(write.write_all(reply.as_bytes()).await);
            }
        }
    }

    #[tokio::test]
    async fn a_renewal_is_news_only_when_something_changed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("watchdog.sock");
        let armed = Arc::new(AtomicBool::new(false));
        tokio::spawn(keeper(UnixListener::bind(&socket).unwrap(), armed.clone()));
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        let hub = Arc::new(Hub::new(Fixed::default(), causes));
        let (inputs, mut told) = mpsc::channel(8);
        let client = Watchdog::start(socket, inputs, hub.clone());
        client.ask(Wish::Renew);
        client.ask(Wish::Arm);
        assert_eq!(told.recv().await, Some(Input::WatchdogArmed(true)), "the first news");
        client.ask(Wish::Renew);
        armed.store(false, Ordering::SeqCst);
        client.ask(Wish::Renew);
        assert_eq!(told.recv().await, Some(Input::WatchdogArmed(false)), "it was disarmed");
        assert_eq!(hub.server().problems.len(), 1);
    }
}
