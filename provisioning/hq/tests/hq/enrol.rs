// SPDX-License-Identifier: Apache-2.0
//! Enrolment, good and bad.

use crate::support::{Hq, Server, certs, problem, status};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::NodeSlot;
use rcgen::{CertificateParams, KeyPair};
use reqwest::Method;
use serde_json::json;

type Change = fn(&mut provisioning_protocol::enrol::VoucherRequest);

const DAY_MS: i64 = 24 * 3600 * 1000;

fn wrong(code: &str) -> String {
    // Another well-formed code with the same public part.
    let code = ClaimCode::parse(code).expect("code");
    let mut bytes = [0; 15];
    for seed in 0..=255 {
        let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        for (at, c) in code.secret().bytes().take(15).enumerate() {
            let place = alphabet.iter().position(|a| *a == c).expect("in alphabet");
            bytes[at] = u8::try_from(place).expect("small");
        }
        bytes[10] = seed;
        let other = ClaimCode::from_random(&bytes);
        if other != code {
            return other.secret().to_owned();
        }
    }
    unreachable!("there are 31 other codes");
}

#[tokio::test]
async fn a_box_with_its_claim_code_becomes_a_server() {
    let (hq, codes) = Hq::with_site().await;
    let mut box_a = Server::new("serial-a");
    box_a.enrol(&hq, &codes.codes[&NodeSlot::A]).await;
    let done = json!({"version": 1, "status": true});
    let answer = box_a.client(&hq).post(hq.url("/.well-known/brski/enrollstatus")).json(&done);
    assert_eq!(answer.send().await.expect("HQ answers").status(), 204);
    let site = hq.operator_get("/v1/sites/kassel").await;
    assert_eq!(site["servers"][0]["serial"], "serial-a");
    assert_eq!(site["servers"][0]["device_id"], box_a.device_id.as_str());
    assert_eq!(site["servers"][1]["device_id"], serde_json::Value::Null);
    let events = hq.operator_get("/v1/events?site=kassel").await;
    let codes: Vec<&str> = events
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|e| e["event"]["code"].as_str())
        .collect();
    assert_eq!(codes, ["site_created", "voucher", "admitted", "enroll_confirmed"]);
}

#[tokio::test]
async fn the_certificate_names_the_device_alone_and_lives_90_days() {
    let (hq, codes) = Hq::with_site().await;
    let mut server = Server::new("serial-a");
    server.enrol(&hq, &codes.codes[&NodeSlot::A]).await;
    let answer = server.certify(&hq, &codes.codes[&NodeSlot::A]).await;
    let all = certs(&answer.text().await.expect("body"));
    assert_eq!(all.len(), 2, "leaf and issuing CA");
    let leaf = all
        .iter()
        .map(|der| x509_parser::parse_x509_certificate(der).expect("certificate").1)
        .find(|cert| !cert.is_ca())
        .expect("leaf");
    let names = leaf.subject_alternative_name().expect("readable").expect("there");
    let names: Vec<String> = names.value.general_names.iter().map(ToString::to_string).collect();
    let place = "URI(urn:forecourt:server:kassel:A)".to_owned();
    assert_eq!(names, [format!("URI(urn:uuid:{})", server.device_id), place]);
    let days = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(days / (24 * 3600), 91, "90 days and one of backdating");
    let usage = leaf.extended_key_usage().expect("readable").expect("there").value;
    assert!(usage.client_auth && !usage.server_auth);
}

#[tokio::test]
async fn ten_wrong_codes_void_the_claim_and_then_the_right_one_fails_too() {
    let (hq, codes) = Hq::with_site().await;
    let code = &codes.codes[&NodeSlot::A];
    let server = Server::new("serial-a");
    let id = &code[..4];
    assert_eq!(server.ask(&hq, Some(id)).await.status(), 200);
    for _ in 0..10 {
        problem(server.certify(&hq, &wrong(code)).await, 401, "bad_claim").await;
    }
    problem(server.certify(&hq, code).await, 422, "void_claim").await;
    problem(server.ask(&hq, Some(id)).await, 422, "void_claim").await;
    // A new code opens the place again.
    let fresh = hq.operator(Method::POST, "/v1/sites/kassel/claims", &json!({})).await;
    let fresh: crate::support::Codes = fresh.json().await.expect("codes");
    Server::new("serial-a").enrol(&hq, &fresh.codes[&NodeSlot::A]).await;
}

#[tokio::test]
async fn a_used_code_works_again_for_its_own_key_alone() {
    let (hq, codes) = Hq::with_site().await;
    let code = &codes.codes[&NodeSlot::A];
    let mut first = Server::new("serial-a");
    first.enrol(&hq, code).await;
    // The answer got lost: the same key asks again.
    assert_eq!(first.ask(&hq, Some(&code[..4])).await.status(), 200);
    assert_eq!(first.certify(&hq, code).await.status(), 200);
    let second = Server::new("serial-x");
    problem(second.ask(&hq, Some(&code[..4])).await, 409, "used_claim").await;
    problem(second.certify(&hq, code).await, 403, "no_voucher").await;
}

#[tokio::test]
async fn of_two_boxes_with_one_code_exactly_one_gets_in() {
    let (hq, codes) = Hq::with_site().await;
    let code = codes.codes[&NodeSlot::B].clone();
    let boxes: Vec<Server> = (0..6).map(|n| Server::new(&format!("serial-{n}"))).collect();
    for one in &boxes {
        assert_eq!(one.ask(&hq, Some(&code[..4])).await.status(), 200);
    }
    let answers = futures_util::future::join_all(boxes.iter().map(|b| b.certify(&hq, &code))).await;
    let won = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(won, 1);
    for lost in answers.into_iter().filter(|answer| answer.status() != 200) {
        problem(lost, 409, "used_claim").await;
    }
}

#[tokio::test]
async fn an_expired_code_is_refused_at_both_steps() {
    let (hq, codes) = Hq::with_site().await;
    let code = &codes.codes[&NodeSlot::A];
    let server = Server::new("serial-a");
    assert_eq!(server.ask(&hq, Some(&code[..4])).await.status(), 200);
    hq.clock.shift_ms(14 * DAY_MS);
    problem(server.certify(&hq, code).await, 422, "expired_claim").await;
    problem(server.ask(&hq, Some(&code[..4])).await, 422, "expired_claim").await;
}

#[tokio::test]
async fn a_box_without_a_code_waits_and_an_unknown_code_is_refused() {
    let (hq, _) = Hq::with_site().await;
    let server = Server::new("serial-a");
    let answer = server.ask(&hq, None).await;
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 202, "pending").await;
    problem(server.ask(&hq, Some("0000")).await, 422, "bad_claim").await;
    problem(server.certify(&hq, "0000-0000-0000-0000").await, 403, "no_voucher").await;
}

#[tokio::test]
async fn a_request_not_signed_by_its_own_key_is_refused() {
    let (hq, codes) = Hq::with_site().await;
    let (honest, thief) = (Server::new("serial-a"), Server::new("serial-a"));
    let request = honest.request(Some(&codes.codes[&NodeSlot::A][..4]));
    problem(honest.ask_with(&hq, &thief.signed(&request)).await, 422, "bad_jws").await;
}

#[tokio::test]
async fn a_csr_for_another_key_gets_no_certificate() {
    let (hq, codes) = Hq::with_site().await;
    let code = &codes.codes[&NodeSlot::A];
    let server = Server::new("serial-a");
    assert_eq!(server.ask(&hq, Some(&code[..4])).await.status(), 200);
    let other = Server::new("serial-a");
    problem(server.certify_with(&hq, code, other.csr()).await, 403, "no_voucher").await;
    let ca = {
        use base64::Engine;
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let csr = params.serialize_request(&server.key).expect("CSR");
        base64::prelude::BASE64_STANDARD.encode(csr.der())
    };
    problem(server.certify_with(&hq, code, ca).await, 422, "bad_csr").await;
}

#[tokio::test]
async fn an_occupied_place_needs_an_operator() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    // Nothing to issue: both places are taken.
    let none = hq.operator(Method::POST, "/v1/sites/kassel/claims", &json!({})).await;
    let none: crate::support::Codes = none.json().await.expect("codes");
    assert!(none.codes.is_empty());
    // Retired: its certificate opens nothing, and its place is free.
    let gone = hq.operator(Method::DELETE, "/v1/sites/kassel/servers/A", &json!({})).await;
    assert_eq!(gone.status(), 204);
    let mut late = a;
    let report = late.report(status(), Vec::new());
    problem(late.send(&hq, &report).await, 403, "blocked").await;
    problem(late.ask(&hq, None).await, 403, "blocked").await;
    let fresh = hq.operator(Method::POST, "/v1/sites/kassel/claims", &json!({})).await;
    let fresh: crate::support::Codes = fresh.json().await.expect("codes");
    Server::new("serial-c").enrol(&hq, &fresh.codes[&NodeSlot::A]).await;
}

#[tokio::test]
async fn one_serial_with_two_keys_needs_an_operator() {
    let (hq, codes) = Hq::with_site().await;
    Server::new("serial-a").enrol(&hq, &codes.codes[&NodeSlot::A]).await;
    let clone = Server::new("serial-a");
    let answer = clone.ask(&hq, Some(&codes.codes[&NodeSlot::B][..4])).await;
    problem(answer, 409, "rekey_needed").await;
}

#[tokio::test]
async fn a_certificate_is_renewed_for_the_same_key_alone() {
    let (hq, codes) = Hq::with_site().await;
    let mut server = Server::new("serial-a");
    server.enrol(&hq, &codes.codes[&NodeSlot::A]).await;
    let renew = |csr: String| {
        let request = server.client(&hq).post(hq.url("/.well-known/est/simplereenroll"));
        request.header("content-type", "application/pkcs10").body(csr).send()
    };
    let answer = renew(server.csr()).await.expect("HQ answers");
    assert_eq!(answer.status(), 200);
    let other = Server { key: KeyPair::generate().expect("key"), ..Server::new("serial-a") };
    problem(renew(other.csr()).await.expect("HQ answers"), 403, "other_key").await;
}

#[tokio::test]
async fn cacerts_gives_root_and_issuing_ca() {
    let hq = Hq::bare().await;
    let answer = hq.client().get(hq.url("/.well-known/est/cacerts")).send().await.expect("answer");
    assert_eq!(answer.headers()["content-type"], "application/pkcs7-mime; smime-type=certs-only");
    assert_eq!(certs(&answer.text().await.expect("body")).len(), 2);
}

#[tokio::test]
async fn hostile_requests_are_refused_field_by_field() {
    let (hq, _) = Hq::with_site().await;
    let server = Server::new("serial-a");
    let cases: [(&str, Change); 5] = [
        ("serial-number", |r| r.serial_number = "a\u{0}b".into()),
        ("serial-number", |r| r.serial_number = "x".repeat(65)),
        ("nonce", |r| r.nonce = "AAAA".into()),
        ("hw.macs", |r| r.hw.macs = vec!["02:00:00:00:00:01".into(); 17]),
        ("hw.vendor", |r| r.hw.vendor = "v".repeat(200)),
    ];
    for (field, change) in cases {
        let mut request = server.request(None);
        change(&mut request);
        let refused = problem(server.ask_with(&hq, &server.signed(&request)).await, 422, "invalid");
        assert!(refused.await.detail.starts_with(field), "{field}");
    }
}

#[tokio::test]
async fn new_boxes_of_one_source_are_limited() {
    let (hq, _) = Hq::with_site().await;
    for n in 0..10 {
        problem(Server::new(&format!("s{n}")).ask(&hq, None).await, 202, "pending").await;
    }
    problem(Server::new("s11").ask(&hq, None).await, 429, "too_many").await;
    hq.clock.shift_ms(3_600_000);
    problem(Server::new("s11").ask(&hq, None).await, 202, "pending").await;
}

#[tokio::test]
async fn strangers_who_know_a_claim_id_cannot_crowd_its_owner_out() {
    let (hq, codes) = Hq::with_site().await;
    let code = &codes.codes[&NodeSlot::A];
    for n in 0..40 {
        assert_eq!(
            Server::new(&format!("stranger-{n}")).ask(&hq, Some(&code[..4])).await.status(),
            200
        );
    }
    Server::new("serial-a").enrol(&hq, code).await;
}
