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
    let mut child = start(&socket, "after-resync-target");
    let (stream, _): (UnixStream, _) = listener.accept().expect("told");
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("line");
    assert!(line.contains("after-resync-target"), "{line}");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "it waited");
}

#[test]
fn a_resync_waits_for_its_copy_and_for_no_more_than_four_seconds() {
    let dir = tempfile::tempdir().expect("temp dir");
    let socket = dir.path().join("agent.sock");
    let event = "before-resync-target";
    assert_eq!(start(&socket, event).wait().expect("ended").code(), Some(0), "no agent");
    let listener = UnixListener::bind(&socket).expect("bound");
    let mut child = start(&socket, event);
    let (stream, _) = listener.accept().expect("told");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().expect("asked"), None, "it did not wait");
    (&stream).write_all(b"{\"exit\":0}\n").expect("answered");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    let started = Instant::now();
    let mut child = start(&socket, event);
    let (_silent, _) = listener.accept().expect("told");
    assert_eq!(child.wait().expect("ended").code(), Some(0), "a refusal drops the link");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(6), "{waited:?}");
}
