// SPDX-License-Identifier: Apache-2.0
//! A small QMP client: one command at a time.

use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An open QMP session.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Connects, waiting for the socket to appear.
    pub fn connect(socket: &Path, limit: Duration) -> anyhow::Result<Self> {
        let stream = crate::wait::wait_for("the QMP socket", limit, || {
            Ok(Some(UnixStream::connect(socket)?))
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut qmp = Self { reader: BufReader::new(stream.try_clone()?), writer: stream };
        qmp.read().context("Reading the QMP greeting")?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns its result; events in between are dropped.
    pub fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.writer, "{request}")?;
        loop {
            let mut answer = self.read().with_context(|| format!("Waiting for {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QMP {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Executes a command of the human monitor; those answer nothing when all is well.
    pub fn human(&mut self, command_line: &str) -> anyhow::Result<()> {
        let answer =
            self.execute("human-monitor-command", json!({ "command-line": command_line }))?;
        match answer.as_str().unwrap_or("").trim() {
            "" => Ok(()),
            text => bail!("monitor `{command_line}`: {text}"),
        }
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("QEMU closed the connection");
        }
        Ok(serde_json::from_str(&line)?)
    }
}
