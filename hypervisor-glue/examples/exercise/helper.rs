// SPDX-License-Identifier: Apache-2.0
//! The agent's side of the fence-peer helper, answering as it is told.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

/// Asked resources, and the answer all get as soon as there is one.
pub struct Agent {
    pub asked: mpsc::UnboundedReceiver<String>,
    pub answer: watch::Sender<Option<u8>>,
}

/// Listens where the kernel's helper looks for the agent.
pub fn listen(socket: &Path) -> anyhow::Result<Agent> {
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let (asked_in, asked) = mpsc::unbounded_channel();
    let (answer, answers) = watch::channel(None);
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked_in, mut answers) = (asked_in.clone(), (*answers).clone());
            tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                let line = BufReader::new(reader).lines().next_line().await;
                let Ok(Some(line)) = line else { return };
                println!("     helper: {line}");
                if !line.contains("fence-peer") {
                    return;
                }
                let _ = asked_in.send(line);
                let code = answers.wait_for(Option::is_some).await.map(|code| *code);
                if let Ok(Some(code)) = code {
                    let text = format!("{{\"exit\":{code}}}\n");
                    let _ = writer.write_all(text.as_bytes()).await;
                }
            });
        }
    });
    Ok(Agent { asked, answer })
}
