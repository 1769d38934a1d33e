// SPDX-License-Identifier: Apache-2.0
//! Desired state and reports.

use crate::support::{Hq, Server, problem, status};
use provisioning_protocol::desired::Desired;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::report::{Event, ReportAnswer};
use reqwest::{Method, Response};
use serde_json::json;
use std::time::{Duration, Instant};

async fn poll(hq: &Hq, server: &Server, wait_s: u32, etag: Option<&str>) -> Response {
    let mut request = server.client(hq).get(hq.url(&format!("/v1/agent/desired?wait={wait_s}")));
    if let Some(etag) = etag {
        request = request.header("if-none-match", etag);
    }
    request.send().await.expect("HQ answers")
}

async fn desired(hq: &Hq, server: &Server) -> Desired {
    poll(hq, server, 0, None).await.json().await.expect("desired state")
}

#[tokio::test]
async fn the_desired_state_names_pair_vms_and_stable_volumes() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, b] = hq.enrol_pair(&codes).await;
    let report = a_report(&mut a);
    assert_eq!(a.send(&hq, &report).await.status(), 200);
    let seen = desired(&hq, &b).await;
    assert_eq!((seen.site.as_str(), seen.slot), ("kassel", NodeSlot::B));
    assert_eq!(seen.peer().expect("peer").wg_public_key, status().wg_public_key);
    assert_eq!(seen.peer().expect("peer").lan_addresses, ["10.0.2.15"]);
    let [vm] = seen.vms.as_slice() else { panic!("one VM: {:?}", seen.vms) };
    assert_eq!((vm.volumes.as_slice(), vm.index, vm.home), (&[0, 1][..], 0, NodeSlot::A));
    // A second VM put first gets new numbers; the old one keeps its own.
    let template = json!({"name": "shop", "version": 1});
    let two = json!({"name": "branch", "vms": [
        {"name": "bakery", "template": template, "variables": {"ADDRESS": "10.0.2.9/24"}},
        {"name": "shop", "template": template}]});
    let answer = hq.operator(Method::PUT, "/v1/blueprints/branch", &two).await;
    assert_eq!(answer.status(), 200);
    let seen = desired(&hq, &b).await;
    assert_eq!(seen.vms[0].volumes, [2, 3]);
    assert_eq!((seen.vms[0].index, seen.vms[0].home), (1, NodeSlot::B));
    assert_eq!(seen.vms[0].variables["ADDRESS"], "10.0.2.9/24");
    assert_eq!(seen.vms[1].volumes, [0, 1]);
    assert_eq!(seen.replication_secret, desired(&hq, &a).await.replication_secret);
}

fn a_report(server: &mut Server) -> provisioning_protocol::report::Report {
    server.report(status(), Vec::new())
}

#[tokio::test]
async fn a_long_poll_wakes_within_two_seconds_of_a_change() {
    let (hq, codes) = Hq::with_site().await;
    let [a, mut b] = hq.enrol_pair(&codes).await;
    let mut slowest = Duration::ZERO;
    for round in 0_u8..5 {
        let first = poll(&hq, &a, 0, None).await;
        let etag = first.headers()["etag"].to_str().expect("text").to_owned();
        let waiting = poll(&hq, &a, 30, Some(&etag));
        let change = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut changed = status();
            changed.lan_addresses = vec![format!("10.0.2.{round}")];
            let report = b.report(changed, Vec::new());
            let at = Instant::now();
            assert_eq!(b.send(&hq, &report).await.status(), 200);
            at
        };
        let ((answer, woke), changed) =
            tokio::join!(async { (waiting.await, Instant::now()) }, change);
        assert_eq!(answer.status(), 200);
        assert_ne!(answer.headers()["etag"].to_str().expect("text"), etag);
        slowest = slowest.max(woke.duration_since(changed));
    }
    println!("slowest wake-up: {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test]
async fn an_unchanged_state_is_304_after_the_wait() {
    let (hq, codes) = Hq::with_site().await;
    let [a, mut b] = hq.enrol_pair(&codes).await;
    let report = a_report(&mut b);
    assert_eq!(b.send(&hq, &report).await.status(), 200);
    let etag = poll(&hq, &a, 0, None).await.headers()["etag"].to_str().expect("text").to_owned();
    // The same roster again is no change.
    let report = a_report(&mut b);
    assert_eq!(b.send(&hq, &report).await.status(), 200);
    let begun = Instant::now();
    let answer = poll(&hq, &a, 1, Some(&etag)).await;
    assert_eq!(answer.status(), 304);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn repeated_and_late_reports_change_nothing() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, _] = hq.enrol_pair(&codes).await;
    let event = |text: &str| Event { at_ms: 1, code: "vm_started".into(), text: text.into() };
    let first = a.report(status(), vec![event("first")]);
    for _ in 0..3 {
        let answer: ReportAnswer = a.send(&hq, &first).await.json().await.expect("answer");
        assert_eq!(answer.seq, 1);
    }
    // The server booted again: its count starts anew, and what the old boot sent comes too late.
    (a.boot, a.seq) = (2, 0);
    // It does not know whether HQ got its first event, so it tells it again.
    let second = a.report(status(), vec![event("first"), event("second")]);
    assert_eq!(a.send(&hq, &second).await.status(), 200);
    let late =
        provisioning_protocol::report::Report { seq: 9, events: vec![event("late")], ..first };
    let answer: ReportAnswer = a.send(&hq, &late).await.json().await.expect("answer");
    assert_eq!(answer.seq, 1);
    let events = hq.operator_get("/v1/events?site=kassel&limit=500").await;
    let texts: Vec<&str> = events
        .as_array()
        .expect("list")
        .iter()
        .filter(|e| e["event"]["code"] == "vm_started")
        .filter_map(|e| e["event"]["text"].as_str())
        .collect();
    assert_eq!(texts, ["first", "second"]);
}

#[tokio::test]
async fn a_report_with_nonsense_is_refused_by_field() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, _] = hq.enrol_pair(&codes).await;
    let mut bad = status();
    bad.wg_public_key = "AAAA".into();
    let report = a.report(bad, Vec::new());
    let told = problem(a.send(&hq, &report).await, 422, "invalid").await;
    assert!(told.detail.starts_with("status.wg_public_key"), "{}", told.detail);
    let mut bad = status();
    bad.lan_addresses = vec!["10.0.2.15; reboot".into()];
    let report = a.report(bad, Vec::new());
    problem(a.send(&hq, &report).await, 422, "invalid").await;
    let mut wrong = serde_json::to_value(a.report(status(), Vec::new())).expect("JSON");
    wrong["status"]["pair"]["epoch"] = json!("three");
    let request = a.client(&hq).post(hq.url("/v1/agent/report")).json(&wrong);
    let told = problem(request.send().await.expect("answer"), 422, "bad_field").await;
    assert!(told.detail.starts_with("status.pair.epoch"), "{}", told.detail);
}

#[tokio::test]
async fn agents_may_be_newer_than_hq_and_say_more() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, _] = hq.enrol_pair(&codes).await;
    let mut more = serde_json::to_value(a.report(status(), Vec::new())).expect("JSON");
    more["status"]["temperature_c"] = json!(41);
    let request = a.client(&hq).post(hq.url("/v1/agent/report")).json(&more);
    assert_eq!(request.send().await.expect("answer").status(), 200);
}

#[tokio::test]
async fn a_restart_of_hq_keeps_everything() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, b] = hq.enrol_pair(&codes).await;
    let report = a_report(&mut a);
    assert_eq!(a.send(&hq, &report).await.status(), 200);
    let before = desired(&hq, &b).await;
    let site = hq.operator_get("/v1/sites/kassel").await;
    let hq = hq.restart().await;
    let after = desired(&hq, &b).await;
    assert_eq!(Desired { server_time_s: before.server_time_s, ..after }, before);
    let now = hq.operator_get("/v1/sites/kassel").await;
    assert_eq!(now["servers"][0]["status"], site["servers"][0]["status"]);
    assert_eq!(now["witness"], site["witness"]);
    // The replay filter survives too.
    let answer: ReportAnswer = a.send(&hq, &report).await.json().await.expect("answer");
    assert_eq!(answer.seq, 1);
    assert_eq!(hq.operator_get("/v1/templates").await.as_array().expect("list").len(), 1);
}

#[tokio::test]
async fn a_bmc_is_known_to_the_other_server_of_the_pair_alone() {
    let (hq, codes) = Hq::with_site().await;
    let [a, b] = hq.enrol_pair(&codes).await;
    let bmc = json!({"url": "https://10.0.0.9", "user": "fence", "password": "s3cr3t-word",
        "fingerprint": "ab".repeat(32)});
    let before = desired(&hq, &b).await.revision;
    let answer = hq.operator(Method::PUT, "/v1/sites/kassel/bmc/A", &bmc).await;
    assert_eq!(answer.status(), 204);
    let seen = desired(&hq, &b).await;
    let known = seen.peer_bmc.clone().expect("A's BMC");
    assert_eq!(
        (known.url.as_str(), known.password.0.as_str()),
        ("https://10.0.0.9", "s3cr3t-word")
    );
    assert!(seen.revision > before, "the long poll wakes");
    assert_eq!(desired(&hq, &a).await.peer_bmc, None, "its own");
    for path in ["/v1/sites", "/v1/sites/kassel", "/v1/events"] {
        let shown = hq.operator_get(path).await.to_string();
        assert!(!shown.contains("s3cr3t"), "{path}: {shown}");
    }
    let put = async |body| hq.operator(Method::PUT, "/v1/sites/kassel/bmc/A", &body).await;
    for (field, value) in
        [("url", "http://10.0.0.9"), ("user", ""), ("fingerprint", "ab"), ("system", "/x")]
    {
        let mut bad = bmc.clone();
        bad[field] = json!(value);
        let told = problem(put(bad).await, 422, "invalid").await;
        assert!(told.detail.starts_with(field), "{field}: {}", told.detail);
    }
    let mut more = bmc.clone();
    more["port"] = json!(1);
    let told = problem(put(more).await, 422, "bad_field").await;
    assert!(told.detail.contains("port") && !told.detail.contains("s3cr3t"), "{}", told.detail);
    for path in ["/v1/sites/kassel/bmc/C", "/v1/sites/none/bmc/A"] {
        problem(hq.operator(Method::PUT, path, &bmc).await, 404, "not_found").await;
    }
    let gone = async || hq.operator(Method::DELETE, "/v1/sites/kassel/bmc/A", &json!({})).await;
    assert_eq!(gone().await.status(), 204);
    assert_eq!(desired(&hq, &b).await.peer_bmc, None);
    problem(gone().await, 404, "not_found").await;
}
