// SPDX-License-Identifier: Apache-2.0
//! The watchdog server over its real socket, with files for device, timeout and sysrq.

use agent_watchdog::device::Paths;
use agent_watchdog::message::{Reply, Request};
use agent_watchdog::server::{Server, now_ms};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

fn paths(dir: &Path) -> Paths {
    Paths {
        device: dir.join("watchdog0"),
        timeout: dir.join("timeout"),
        wdctl: "/bin/true".into(),
        sysrq: dir.join("sysrq"),
        state: dir.join("lease"),
        socket: dir.join("watchdog.sock"),
    }
}

fn with_device(timeout: &str) -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().expect("temp dir");
    let paths = paths(dir.path());
    std::fs::write(&paths.device, "").expect("device");
    std::fs::write(&paths.timeout, timeout).expect("timeout");
    (dir, paths)
}

fn pets(paths: &Paths) -> usize {
    std::fs::read(&paths.device).expect("device").len()
}

fn say(stream: &UnixStream, text: &str) -> Reply {
    { stream }.write_all(format!("{text}\n").as_bytes()).expect("said");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("answered");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn an_agent_arms_renews_and_disarms_over_the_socket() {
    let (_dir, paths) = with_device("10\n");
    let server = Server::new(paths.clone());
    server.listen().expect("listening");
    let stream = UnixStream::connect(&paths.socket).expect("connected");
    let armed = say(&stream, r#"{"op":"arm","lease_ms":8000}"#);
    assert!(armed.armed && armed.reason.is_empty(), "{armed:?}");
    assert_eq!(armed.timeout_ms, 10_000);
    let other = UnixStream::connect(&paths.socket).expect("connected");
    assert!(say(&other, r#"{"op":"renew"}"#).lease_left_ms > 7_000);
    assert!(say(&other, r#"{"op":"status"}"#).armed);
    let nonsense = say(&other, r#"{"op":"arm","lease_ms":-1}"#);
    assert!(nonsense.armed && !nonsense.reason.is_empty(), "{nonsense:?}");
    assert!(!say(&other, r#"{"op":"disarm"}"#).armed);
}

#[test]
fn a_lease_that_runs_out_stops_the_petting_for_good() {
    let (_dir, paths) = with_device("10\n");
    let server = Server::new(paths.clone());
    server.tick();
    let before = pets(&paths);
    assert!(before > 0, "an idle watchdog is petted");
    assert!(server.answer(Request::Arm { lease_ms: 1_000 }).armed);
    server.tick();
    assert_eq!(pets(&paths), before + 1);
    std::thread::sleep(Duration::from_millis(1_050));
    server.tick();
    assert_eq!(pets(&paths), before + 1, "petted after the lease");
    let late = server.answer(Request::Renew);
    assert!(late.armed && late.reason.contains("ran out"), "{late:?}");
    server.close();
    server.tick();
    assert_eq!(pets(&paths), before + 1, "petted or closed after the lease");
}

#[test]
fn a_restarted_watchdog_takes_up_the_lease() {
    let (_dir, paths) = with_device("10\n");
    assert!(Server::new(paths.clone()).answer(Request::Arm { lease_ms: 8_000 }).armed);
    let again = Server::new(paths.clone()).answer(Request::Status);
    assert!(again.armed && again.lease_left_ms <= 8_000, "{again:?}");
    std::fs::write(&paths.state, format!("armed 8000 {}", now_ms() - 1)).expect("lease");
    let before = pets(&paths);
    Server::new(paths.clone()).tick();
    assert_eq!(pets(&paths), before, "an overrun lease was petted by the next process");
}

#[test]
fn the_second_net_fires_when_the_hardware_did_not() {
    let (_dir, paths) = with_device("10\n");
    std::fs::write(&paths.state, format!("expired {}", now_ms().saturating_sub(12_000)))
        .expect("lease");
    Server::new(paths.clone()).tick();
    assert_eq!(std::fs::read_to_string(&paths.sysrq).expect("sysrq"), "b");
}

#[test]
fn without_a_usable_device_nothing_claims_to_be_armed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let reply = Server::new(paths(dir.path())).answer(Request::Arm { lease_ms: 8_000 });
    assert!(!reply.armed && reply.reason.contains("no watchdog"), "{reply:?}");
    let (_dir, paths) = with_device("60\n");
    let reply = Server::new(paths).answer(Request::Arm { lease_ms: 8_000 });
    assert!(!reply.armed && reply.reason.contains("60 s"), "{reply:?}");
}
