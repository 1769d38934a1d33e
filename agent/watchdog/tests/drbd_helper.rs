// SPDX-License-Identifier: Apache-2.0
//! The helper against a real socket, as the kernel runs it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn start(socket: &Path, event: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_drbd-helper"))
        .args([event, "parts-counter-data"])
        .env("FORECOURT_AGENT_SOCKET", socket)
        .stdin(Stdio::null())
        .spawn()
        .expect("helper starts")
}

fn answer(listener: &UnixListener, text: &str) -> String {
    let (stream, _) = listener.accept().expect("helper connects");
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("helper asks");
    (&stream).write_all(text.as_bytes()).expect("answered");
    line
}

#[test]
fn a_granted_code_becomes_the_exit_code() {
    for code in [1, 4, 6, 7] {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        let mut child = start(&socket, "fence-peer");
        let line = answer(&listener, &format!("{{\"exit\": {code}}}\n"));
        let asked: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(asked["event"], "fence-peer");
        assert_eq!(asked["resource"], "parts-counter-data");
        assert_eq!(asked["pid"], child.id());
        assert_eq!(child.wait().expect("ended").code(), Some(code));
    }
}

#[test]
fn codes_that_could_lose_data_and_nonsense_are_asked_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let mut child = start(&socket, "fence-peer");
    let bad = ["{\"exit\":5}\n", "{\"exit\":0}\n", "{\"exit\":3}\n", "7\n", "", "{\"exit\":77}\n"];
    for text in bad {
        answer(&listener, text);
        assert_eq!(child.try_wait().expect("asked"), None, "ended after {text:?}");
    }
    answer(&listener, "{\"exit\":7}\n");
    assert_eq!(child.wait().expect("ended").code(), Some(7));
}

#[test]
fn it_waits_for_an_agent_that_is_not_there_yet() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("agent.sock");
    let mut child = start(&socket, "fence-peer");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().expect("asked"), None, "it decided alone");
    let listener = UnixListener::bind(&socket).expect("bound");
    answer(&listener, "{\"exit\":6}\n");
    assert_eq!(child.wait().expect("ended").code(), Some(6));
}

#[test]
fn other_events_are_told_and_never_wait() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("agent.sock");
    let started = Instant::now();
    assert_eq!(start(&socket, "split-brain").wait().expect("ended").code(), Some(0));
    let listener = UnixListener::bind(&socket).expect("bound");
    let mut child = start(&socket, "before-resync-target");
    let (stream, _): (UnixStream, _) = listener.accept().expect("told");
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("line");
    assert!(line.contains("before-resync-target"), "{line}");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "it waited");
}
