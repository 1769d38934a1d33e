// SPDX-License-Identifier: Apache-2.0
//! Who may say what, and how refusals look.

use crate::support::{Hq, Server, client, problem, status};
use provisioning_protocol::ids::NodeSlot;
use reqwest::Method;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn without_or_with_a_wrong_token_nothing_is_told() {
    let (hq, _) = Hq::with_site().await;
    let get = |path: &str| hq.client().get(hq.url(path));
    for path in
        ["/v1/sites", "/v1/sites/kassel", "/v1/events", "/v1/events/stream", "/v1/templates"]
    {
        problem(get(path).send().await.expect("answer"), 401, "no_token").await;
        let wrong = get(path).bearer_auth("x".repeat(43)).send().await.expect("answer");
        problem(wrong, 401, "bad_token").await;
    }
    problem(get("/fragment").send().await.expect("answer"), 401, "no_session").await;
    assert_eq!(get("/").send().await.expect("answer").status(), 303);
}

#[tokio::test]
async fn guessing_tokens_is_slowed_down() {
    let hq = Hq::bare().await;
    let guess = || hq.client().get(hq.url("/v1/sites")).bearer_auth("guess").send();
    for _ in 0..20 {
        problem(guess().await.expect("answer"), 401, "bad_token").await;
    }
    let answer = guess().await.expect("answer");
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 429, "too_many").await;
}

#[tokio::test]
async fn agent_addresses_need_a_certificate_of_this_hq() {
    let (hq, codes) = Hq::with_site().await;
    for path in ["/v1/agent/desired", "/v1/agent/witness", "/catalogue/metadata/timestamp.json"] {
        let answer = hq.client().get(hq.url(path)).send().await.expect("answer");
        problem(answer, 401, "no_certificate").await;
    }
    // A certificate of another HQ does not get through the handshake.
    let (other, other_codes) = Hq::with_site().await;
    let mut stranger = Server::new("stranger");
    stranger.enrol(&other, &other_codes.codes[&NodeSlot::A]).await;
    let foreign =
        client(&hq.root_ca(), Some((stranger.cert.as_deref().expect("cert"), &stranger.key)));
    assert!(foreign.get(hq.url("/v1/agent/desired")).send().await.is_err());
    // An operator's token does not make a server.
    let answer = hq.client().get(hq.url("/v1/agent/desired")).bearer_auth(hq.token()).send();
    problem(answer.await.expect("answer"), 401, "no_certificate").await;
    // Nor does a certificate make an operator.
    let [a, _] = hq.enrol_pair(&codes).await;
    problem(a.client(&hq).get(hq.url("/v1/sites")).send().await.expect("answer"), 401, "no_token")
        .await;
}

#[tokio::test]
async fn a_client_refuses_an_hq_of_another_ca() {
    let (hq, other) = (Hq::bare().await, Hq::bare().await);
    let error = other.client().get(hq.url("/v1/sites")).send().await.expect_err("refused");
    let text = provisioning_hq::problem::chain(&error);
    assert!(text.contains("UnknownIssuer"), "{text}");
}

/// Certificates are checked against the machine's clock, which a test cannot move; so the
/// certificate is made this many days ago instead.
async fn enrolled_ago(hq: &Hq, code: &str, days: i64) -> Server {
    hq.clock.shift_ms(-days * 24 * 3600 * 1000);
    let mut server = Server::new("serial-a");
    server.enrol(hq, code).await;
    hq.clock.shift_ms(days * 24 * 3600 * 1000);
    server
}

#[tokio::test]
async fn an_ended_certificate_opens_its_renewal_and_nothing_else() {
    let (hq, codes) = Hq::with_site().await;
    let mut server = enrolled_ago(&hq, &codes.codes[&NodeSlot::A], 200).await;
    for path in ["/v1/agent/desired", "/v1/agent/witness", "/catalogue/metadata/timestamp.json"] {
        let answer = server.client(&hq).get(hq.url(path)).send().await.expect("answer");
        problem(answer, 401, "ended_certificate").await;
    }
    let report = server.report(status(), Vec::new());
    problem(server.send(&hq, &report).await, 401, "ended_certificate").await;
    let renew = server.client(&hq).post(hq.url("/.well-known/est/simplereenroll"));
    let renew = renew.header("content-type", "application/pkcs10").body(server.csr());
    let answer = renew.send().await.expect("answer");
    assert_eq!(answer.status(), 200);
    server.cert = Some(crate::support::first_cert(&answer.text().await.expect("body")));
    assert_eq!(server.send(&hq, &report).await.status(), 200);
}

#[tokio::test]
async fn a_certificate_that_ended_more_than_a_year_ago_or_is_blocked_opens_nothing() {
    let (hq, codes) = Hq::with_site().await;
    let old = enrolled_ago(&hq, &codes.codes[&NodeSlot::A], 90 + 366).await;
    let error = old.client(&hq).get(hq.url("/v1/agent/desired")).send().await.expect_err("no");
    let text = provisioning_hq::problem::chain(&error);
    assert!(text.contains("CertificateExpired"), "{text}");
    let (hq, codes) = Hq::with_site().await;
    let blocked = enrolled_ago(&hq, &codes.codes[&NodeSlot::A], 100).await;
    let gone = hq.operator(Method::DELETE, "/v1/sites/kassel/servers/A", &json!({})).await;
    assert_eq!(gone.status(), 204);
    let renew = blocked.client(&hq).post(hq.url("/.well-known/est/simplereenroll"));
    let renew = renew.header("content-type", "application/pkcs10").body(blocked.csr());
    problem(renew.send().await.expect("answer"), 403, "blocked").await;
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    let get = |path: &str| hq.client().get(hq.url(path)).bearer_auth(hq.token());
    problem(get("/v1/nothing").send().await.expect("answer"), 404, "not_found").await;
    problem(get("/v1/sites/no-such-site").send().await.expect("answer"), 404, "not_found").await;
    problem(get("/v1/sites/..%2F..").send().await.expect("answer"), 404, "not_found").await;
    problem(get("/v1/events?limit=many").send().await.expect("answer"), 400, "bad_request").await;
    let put = hq.operator(Method::PUT, "/v1/sites", &json!({})).await;
    problem(put, 405, "method_not_allowed").await;
    let plain = hq.client().post(hq.url("/v1/sites")).bearer_auth(hq.token()).body("x");
    problem(plain.send().await.expect("answer"), 415, "media_type").await;
    let post = || hq.client().post(hq.url("/v1/sites")).bearer_auth(hq.token());
    let post = || post().header("content-type", "application/json");
    problem(post().body("{").send().await.expect("answer"), 400, "bad_request").await;
    problem(post().body("[1] 2").send().await.expect("answer"), 422, "bad_field").await;
    problem(post().body("x".repeat(65 * 1024)).send().await.expect("answer"), 413, "too_large")
        .await;
    let request = a.client(&hq).get(hq.url("/v1/agent/desired?wait=-1"));
    problem(request.send().await.expect("answer"), 400, "bad_request").await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, _] = hq.enrol_pair(&codes).await;
    let mut big = a.report(status(), Vec::new());
    big.status.problems = vec!["x".repeat(70 * 1024)];
    let bytes = serde_json::to_vec(&big).expect("JSON");
    let parts = bytes.chunks(1000).map(|part| Ok::<_, std::io::Error>(part.to_vec()));
    let stream = futures_util::stream::iter(parts.collect::<Vec<_>>());
    let request = a.client(&hq).post(hq.url("/v1/agent/report"));
    let request = request.header("content-type", "application/json");
    let answer = request.body(reqwest::Body::wrap_stream(stream)).send().await.expect("answer");
    problem(answer, 413, "too_large").await;
}

#[tokio::test]
async fn unknown_fields_of_an_operator_are_refused_by_name() {
    let (hq, _) = Hq::with_site().await;
    let body = json!({"name": "x", "blueprint": "branch", "colour": "red"});
    let told = problem(hq.operator(Method::POST, "/v1/sites", &body).await, 422, "bad_field").await;
    assert!(told.detail.contains("colour"), "{}", told.detail);
    let template = json!({"name": "shop", "version": 1});
    let body = json!({"name": "b", "vms": [{"name": "shop", "template": template, "cpus": 64}]});
    let answer = hq.operator(Method::PUT, "/v1/blueprints/b", &body).await;
    let told = problem(answer, 422, "bad_field").await;
    assert!(told.detail.starts_with("vms[0]") && told.detail.contains("cpus"), "{}", told.detail);
}

#[tokio::test]
async fn a_connection_that_never_speaks_tls_is_cut_off_and_disturbs_nobody() {
    let hq = Hq::bare().await;
    let mut silent = tokio::net::TcpStream::connect(hq.address).await.expect("connects");
    silent.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("writes");
    let mut mute = tokio::net::TcpStream::connect(hq.address).await.expect("connects");
    let answer = hq.client().get(hq.url("/login")).send().await.expect("answer");
    assert_eq!(answer.status(), 200);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(8), mute.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a silent connection stays open");
}

#[tokio::test]
async fn hq_renews_its_own_certificate_before_it_ends_and_clients_stay() {
    let hq = Hq::bare().await;
    let before = std::fs::read(hq.folder().at("pki/tls.pem")).expect("certificate");
    hq.clock.shift_ms(300 * 24 * 3600 * 1000);
    let hq = hq.restart().await;
    let after = std::fs::read(hq.folder().at("pki/tls.pem")).expect("certificate");
    assert_ne!(before, after);
    // Made 300 days ahead and backdated by one: not valid yet for this machine's clock.
    hq.clock.shift_ms(-300 * 24 * 3600 * 1000);
    let error = hq.client().get(hq.url("/login")).send().await.expect_err("from the future");
    let text = provisioning_hq::problem::chain(&error);
    assert!(text.contains("not valid yet"), "the chain itself must be accepted: {text}");
}
