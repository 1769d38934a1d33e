// SPDX-License-Identifier: Apache-2.0
//! The kernel's events about replicated volumes, as long as someone listens.

use super::ReplicaEvent;
use super::parse::{LINE_BYTES_MAX, Line};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

const RESTART_PAUSE: Duration = Duration::from_millis(200);
const QUEUE: usize = 1024;

/// Runs `drbdsetup events2 all` for as long as the receiver lives.
pub(super) fn stream(drbdsetup: String) -> mpsc::Receiver<ReplicaEvent> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while !sender.is_closed() {
            if let Err(err) = follow(&drbdsetup, &sender).await {
                tracing::warn!(error = %crate::error::error_chain(&err), "replication events broke");
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        }
    });
    receiver
}

async fn follow(drbdsetup: &str, sender: &mpsc::Sender<ReplicaEvent>) -> std::io::Result<()> {
    let mut child = tokio::process::Command::new(drbdsetup)
        .args(["events2", "all"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let Some(stdout) = child.stdout.take() else { return Ok(()) };
    let mut reader = BufReader::new(stdout);
    let mut dumped = false;
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut bounded = (&mut reader).take(limit);
        let n = tokio::select! {
            n = bounded.read_until(b'\n', &mut line) => n?,
            () = sender.closed() => return Ok(()),
        };
        if n == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let Some(split) = Line::split(&text) else { continue };
        let event = if split.ends_dump() {
            dumped = true;
            Some(ReplicaEvent::Restarted)
        } else {
            split.event().filter(|_| dumped)
        };
        if let Some(event) = event
            && sender.send(event).await.is_err()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::LinkState;

    #[tokio::test]
    async fn a_broken_stream_starts_again_and_says_so() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("temp dir");
        let script = dir.path().join("events");
        let text = "#!/bin/sh\necho 'exists resource name:r role:Secondary'\necho 'exists -'\n\
                    echo 'change connection name:r connection:Connected'\n";
        std::fs::write(&script, text).expect("write");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let mut events = stream(script.display().to_string());
        for _ in 0..2 {
            assert_eq!(events.recv().await, Some(ReplicaEvent::Restarted));
            let link = LinkState::Connected;
            assert_eq!(
                events.recv().await,
                Some(ReplicaEvent::Link { resource: "r".into(), link })
            );
        }
    }
}
