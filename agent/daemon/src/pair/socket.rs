// SPDX-License-Identifier: Apache-2.0
//! The agent's local sockets: one JSON line in, one out, for root alone.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// How long whoever connects may take to say what it wants.
const LINE_LIMIT: Duration = Duration::from_secs(5);

/// Binds a socket that only root may use, in place of one that an earlier agent left.
///
/// # Errors
/// If the socket cannot be made.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    drop(std::fs::remove_file(path));
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Reads the first line, at most `bytes_max` long; gives back both halves of the connection.
///
/// # Errors
/// If it does not come within 5 s, or is not UTF-8. A longer line is cut: it is no JSON then.
pub async fn first_line(
    stream: UnixStream,
    bytes_max: u64,
) -> io::Result<(String, OwnedReadHalf, OwnedWriteHalf)> {
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read.take(bytes_max));
    let mut line = String::new();
    timeout(LINE_LIMIT, read.read_line(&mut line)).await.map_err(io::Error::other)??;
    Ok((line, read.into_inner().into_inner(), write))
}
