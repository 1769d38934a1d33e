// SPDX-License-Identifier: Apache-2.0
//! Talking to QEMU: a connection per conversation, everything bounded in time and size, events of
//! any name passed over.

use crate::error::{GlueError, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Longest line of QEMU's that is read.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most events passed over while waiting for one answer.
const EVENTS_MAX: usize = 1000;

/// A conversation with one QEMU.
pub struct Qmp {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    next_id: u64,
    limit: Duration,
}

/// What a line was.
enum Heard {
    Return(Value),
    Error(String),
    Event(String),
}

impl Qmp {
    /// Connects and negotiates; every later answer must come within `limit`.
    ///
    /// # Errors
    /// If the socket is not there, or QEMU is silent or says nonsense.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let what = || format!("QEMU's greeting on {}", socket.display());
        let late = |_| GlueError::Timeout { what: what(), limit };
        let stream = timeout(limit, UnixStream::connect(socket))
            .await
            .map_err(late)?
            .map_err(|err| GlueError::file("connect to", socket, err))?;
        let (reader, writer) = stream.into_split();
        let mut qmp = Self { reader: BufReader::new(reader), writer, next_id: 0, limit };
        timeout(limit, qmp.greeting(&what())).await.map_err(late)??;
        qmp.execute("qmp_capabilities", None).await?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    ///
    /// # Errors
    /// If QEMU refuses, is silent for the limit, or is gone.
    pub async fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value> {
        let limit = self.limit;
        timeout(limit, self.exchange(command, arguments, None)).await.map_err(|_| {
            GlueError::Timeout { what: format!("QEMU's answer to {command}"), limit }
        })?
    }

    /// Runs commands in this order without waiting in between; each is answered, also after a refusal.
    ///
    /// # Errors
    /// The first refusal, or as [`Qmp::execute`].
    pub async fn execute_all(&mut self, commands: Vec<(&str, Value)>) -> Result<()> {
        let limit = self.limit;
        let all = async {
            let mut sent = Vec::new();
            for (command, arguments) in commands {
                sent.push((command, self.ask(command, Some(arguments)).await?));
            }
            let mut result = Ok(());
            for (command, id) in sent {
                match self.answer(command, id, None).await {
                    Err(err @ GlueError::Qmp { .. }) => result = result.and(Err(err)),
                    other => drop(other?),
                }
            }
            result
        };
        let what = || "QEMU's answers to several commands".to_owned();
        timeout(limit, all).await.map_err(|_| GlueError::Timeout { what: what(), limit })?
    }

    /// Runs a command and returns when QEMU either answered it or told of this event.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub async fn execute_or_event(&mut self, command: &str, event: &str) -> Result<()> {
        let limit = self.limit;
        timeout(limit, self.exchange(command, None, Some(event)))
            .await
            .map_err(|_| GlueError::Timeout { what: format!("QEMU's answer to {command}"), limit })?
            .map(drop)
    }

    /// Waits until QEMU tells of this event, or for so long. In the second case the conversation is over,
    /// as half a line of it may be lost.
    ///
    /// # Errors
    /// If QEMU hangs up or says nonsense.
    pub async fn event(mut self, event: &str, wait: Duration) -> Result<Option<Self>> {
        let told = async {
            for _ in 0..EVENTS_MAX {
                let line = self.line(event).await?;
                if line.get("event").and_then(Value::as_str) == Some(event) {
                    return Ok(Some(self));
                }
            }
            Err(GlueError::parse(format!("QEMU's event {event}"), "endless others"))
        };
        timeout(wait, told).await.unwrap_or(Ok(None))
    }

    /// Passes over what QEMU still had to say to the conversation before.
    async fn greeting(&mut self, what: &str) -> Result<()> {
        let mut last = String::new();
        for _ in 0..EVENTS_MAX {
            match self.line("its greeting").await {
                Ok(line) if line.get("QMP").is_some() => return Ok(()),
                Ok(line) => last = line.to_string(),
                Err(GlueError::Parse { detail, .. }) => last = detail,
                Err(err) => return Err(err),
            }
        }
        Err(GlueError::parse(what, last))
    }

    async fn exchange(
        &mut self,
        command: &str,
        arguments: Option<Value>,
        enough: Option<&str>,
    ) -> Result<Value> {
        let id = self.ask(command, arguments).await?;
        self.answer(command, id, enough).await
    }

    /// Sends a command; returns its id.
    async fn ask(&mut self, command: &str, arguments: Option<Value>) -> Result<u64> {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({ "execute": command, "id": id });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        self.send(command, &message).await?;
        Ok(id)
    }

    async fn answer(&mut self, command: &str, id: u64, enough: Option<&str>) -> Result<Value> {
        for _ in 0..EVENTS_MAX {
            let line = self.line(command).await?;
            match heard(&line, id) {
                Some(Heard::Return(value)) => return Ok(value),
                Some(Heard::Error(detail)) => {
                    return Err(GlueError::Qmp { command: command.to_owned(), detail });
                }
                Some(Heard::Event(name)) if enough == Some(name.as_str()) => {
                    return Ok(Value::Null);
                }
                // Another event, or the late answer to an earlier command.
                _ => {}
            }
        }
        Err(GlueError::parse(format!("QEMU's answer to {command}"), "endless events"))
    }

    async fn send(&mut self, command: &str, message: &Value) -> Result<()> {
        let gone = |err: std::io::Error| GlueError::Qmp {
            command: command.to_owned(),
            detail: format!("it is gone: {err}"),
        };
        self.writer.write_all(format!("{message}\n").as_bytes()).await.map_err(gone)
    }

    async fn line(&mut self, command: &str) -> Result<Value> {
        let gone = |detail: String| GlueError::Qmp { command: command.to_owned(), detail };
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX);
        let n = bounded
            .read_until(b'\n', &mut line)
            .await
            .map_err(|err| gone(format!("it is gone: {err}")))?;
        if n == 0 || !line.ends_with(b"\n") {
            return Err(gone("it hung up".to_owned()));
        }
        serde_json::from_slice(&line).map_err(|err| GlueError::parse("QEMU's words", err))
    }
}

fn heard(line: &Value, id: u64) -> Option<Heard> {
    if let Some(event) = line.get("event").and_then(Value::as_str) {
        return Some(Heard::Event(event.to_owned()));
    }
    if line.get("id").and_then(Value::as_u64) != Some(id) {
        return None;
    }
    if let Some(error) = line.get("error") {
        let text = error.get("desc").and_then(Value::as_str).unwrap_or("no description");
        return Some(Heard::Error(text.chars().take(300).collect()));
    }
    line.get("return").cloned().map(Heard::Return)
}

/// Whether a line is an answer or an event, for the fuzz targets.
#[doc(hidden)]
#[must_use]
pub fn read_any(line: &[u8]) -> bool {
    serde_json::from_slice(line).is_ok_and(|line| heard(&line, 1).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const LIMIT: Duration = Duration::from_millis(500);
    const GREETING: &str = r#"{"QMP":{"version":{},"capabilities":[]}}"#;
    /// An event of the moment in which QEMU took the connection, after half of one for the connection before.
    const BEFORE: &str = "ss\":6}}\n{\"event\":\"MIGRATION_PASS\",\"data\":{\"pass\":7}}\n";

    /// A QEMU that greets, accepts capabilities, then answers each line with these lines.
    fn fake(dir: &Path, answers: &'static [&'static [&'static str]]) -> std::path::PathBuf {
        let socket = dir.join("qmp.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accepted");
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            writer.write_all(format!("{BEFORE}{GREETING}\n").as_bytes()).await.expect("greeted");
            lines.next_line().await.expect("capabilities");
            writer.write_all(b"{\"return\":{},\"id\":1}\n").await.expect("accepted");
            for answer in answers {
                lines.next_line().await.expect("a command");
                for line in *answer {
                    writer.write_all(format!("{line}\n").as_bytes()).await.expect("answered");
                }
            }
            // Stay open: silence, not hanging up.
            let _ = lines.next_line().await;
        });
        socket
    }

    #[tokio::test]
    async fn unknown_events_and_late_answers_are_passed_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(
            dir.path(),
            &[&[
                r#"{"event":"NEVER_HEARD_OF","data":{"x":[1]}}"#,
                r#"{"return":{"status":"old"},"id":1}"#,
                r#"{"return":{"status":"running"},"id":2}"#,
            ]],
        );
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        let answer = qmp.execute("query-status", None).await.expect("answered");
        assert_eq!(answer["status"], "running");
    }

    #[tokio::test]
    async fn who_never_greets_is_no_qemu() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            while stream.write_all(BEFORE.as_bytes()).await.is_ok() {}
        });
        let err = Qmp::connect(&socket, LIMIT * 20).await.map(drop).expect_err("no greeting");
        assert!(matches!(err, GlueError::Parse { .. }), "{err}");
    }

    #[tokio::test]
    async fn a_silent_qemu_is_given_up_on() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(dir.path(), &[&[]]);
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        let err = qmp.execute("query-status", None).await.expect_err("silent");
        assert!(matches!(err, GlueError::Timeout { .. }), "{err}");
    }

    #[tokio::test]
    async fn stop_counts_as_told_once_the_event_is_there() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(dir.path(), &[&[r#"{"event":"STOP"}"#]]);
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        qmp.execute_or_event("stop", "STOP").await.expect("told, though it never answered");
    }

    #[tokio::test]
    async fn an_event_is_waited_for_among_others_and_silence_ends_the_conversation() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(
            dir.path(),
            &[
                &[r#"{"return":{},"id":2}"#, r#"{"event":"OTHER"}"#, r#"{"event":"MIGRATION"}"#],
                &[r#"{"return":{"status":"completed"},"id":3}"#],
            ],
        );
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        qmp.execute("migrate", None).await.expect("answered");
        let told = qmp.event("MIGRATION", LIMIT).await.expect("no nonsense");
        let mut qmp = told.expect("it was told");
        let answer = qmp.execute("query-migrate", None).await.expect("in step");
        assert_eq!(answer["status"], "completed");
        let told = qmp.event("MIGRATION", Duration::from_millis(20)).await.expect("no nonsense");
        assert!(told.is_none());
    }

    #[tokio::test]
    async fn of_several_commands_the_first_refusal_counts_and_all_are_answered() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(
            dir.path(),
            &[
                &[],
                &[],
                &[
                    r#"{"return":{},"id":2}"#,
                    r#"{"error":{"class":"GenericError","desc":"no such disk"},"id":3}"#,
                    r#"{"error":{"class":"GenericError","desc":"nor this one"},"id":4}"#,
                ],
                &[r#"{"return":{"status":"paused"},"id":5}"#],
            ],
        );
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        let commands = ["blockdev-add", "blockdev-add", "blockdev-reopen"];
        let all = commands.iter().map(|command| (*command, json!({}))).collect();
        let err = qmp.execute_all(all).await.expect_err("refused");
        assert!(err.to_string().contains("no such disk"), "{err}");
        let answer = qmp.execute("query-status", None).await.expect("in step");
        assert_eq!(answer["status"], "paused");
    }

    #[tokio::test]
    async fn refusals_and_nonsense_are_errors() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = fake(
            dir.path(),
            &[
                &[r#"{"error":{"class":"GenericError","desc":"no such disk"},"id":2}"#],
                &["nonsense"],
            ],
        );
        let mut qmp = Qmp::connect(&socket, LIMIT).await.expect("connected");
        let err = qmp.execute("eject", None).await.expect_err("refused");
        assert!(err.to_string().contains("no such disk"), "{err}");
        let err = qmp.execute("eject", None).await.expect_err("nonsense");
        assert!(matches!(err, GlueError::Parse { .. }), "{err}");
    }
}
