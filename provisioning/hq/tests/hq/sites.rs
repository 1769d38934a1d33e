// SPDX-License-Identifier: Apache-2.0
//! What operators write: blueprints and sites.

use crate::support::{Hq, problem};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::NodeSlot;
use reqwest::Method;
use serde_json::{Value, json};

fn blueprint(vms: &Value) -> Value {
    json!({"name": "b", "vms": vms})
}

#[tokio::test]
async fn a_new_site_shows_two_codes_once_and_stores_no_code() {
    let (hq, codes) = Hq::with_site().await;
    assert_eq!(codes.codes.len(), 2);
    let secrets: Vec<String> = NodeSlot::BOTH
        .iter()
        .map(|slot| ClaimCode::parse(&codes.codes[slot]).expect("well-formed").secret().to_owned())
        .collect();
    assert_ne!(secrets[0], secrets[1]);
    let again = json!({"name": "kassel", "blueprint": "branch"});
    problem(hq.operator(Method::POST, "/v1/sites", &again).await, 409, "site_exists").await;
    let folder = hq.folder();
    let hq = hq.restart().await;
    for name in ["hq.db", "hq.db-wal"] {
        let bytes = std::fs::read(folder.at(name)).unwrap_or_default();
        for secret in &secrets {
            let found = bytes.windows(16).any(|w| w == secret.as_bytes());
            assert!(!found, "a claim code lies in {name}");
        }
    }
    drop(hq);
}

#[tokio::test]
async fn a_new_code_voids_the_old_one() {
    let (hq, codes) = Hq::with_site().await;
    let answer = hq.operator(Method::POST, "/v1/sites/kassel/claims", &json!({})).await;
    assert_eq!(answer.status(), 200);
    let server = crate::support::Server::new("serial-a");
    let old = &codes.codes[&NodeSlot::A][..4];
    problem(server.ask(&hq, Some(old)).await, 422, "void_claim").await;
}

#[tokio::test]
async fn a_blueprint_with_nonsense_is_refused_by_field() {
    let (hq, _) = Hq::with_site().await;
    let template = json!({"name": "shop", "version": 1});
    let vm = |name: &str| json!({"name": name, "template": template});
    let many: Vec<Value> = (0..33).map(|n| vm(&format!("vm-{n}"))).collect();
    let long = "x".repeat(5000);
    let cases = [
        (json!([]), 422, "invalid", "vms"),
        (json!(many), 422, "invalid", "vms"),
        (json!([vm("a"), vm("a")]), 422, "invalid", "vms[1].name"),
        (json!([vm("../a")]), 422, "bad_field", "vms[0].name"),
        (
            json!([{"name": "a", "template": {"name": "shop", "version": 9}}]),
            422,
            "unknown_template",
            "vms[0].template",
        ),
        (
            json!([{"name": "a", "template": template, "variables": {"colour": "x"}}]),
            422,
            "invalid",
            "vms[0].variables.colour",
        ),
        (
            json!([{"name": "a", "template": template, "variables": {"ADDRESS": "x\nb: y"}}]),
            422,
            "invalid",
            "vms[0].variables.ADDRESS",
        ),
        (
            json!([{"name": "a", "template": template, "variables": {"ADDRESS": long}}]),
            422,
            "invalid",
            "vms[0].variables.ADDRESS",
        ),
    ];
    for (vms, status, code, field) in cases {
        let answer = hq.operator(Method::PUT, "/v1/blueprints/b", &blueprint(&vms)).await;
        let told = problem(answer, status, code).await;
        assert!(told.detail.starts_with(field), "{field}: {}", told.detail);
    }
    let other = json!({"name": "c", "vms": [vm("a")]});
    problem(hq.operator(Method::PUT, "/v1/blueprints/b", &other).await, 422, "invalid").await;
}

#[tokio::test]
async fn a_site_with_nonsense_is_refused_by_field() {
    let (hq, _) = Hq::with_site().await;
    let cases = [
        (json!({"name": "x", "blueprint": "none"}), "unknown_blueprint", "blueprint"),
        (json!({"name": "Köln", "blueprint": "branch"}), "bad_field", "name"),
        (
            json!({"name": "x", "blueprint": "branch", "variables": {"bar": {}}}),
            "invalid",
            "variables.bar",
        ),
        (
            json!({"name": "x", "blueprint": "branch", "variables": {"shop": {"colour": "red"}}}),
            "invalid",
            "variables.shop.colour",
        ),
        (
            json!({"name": "x", "blueprint": "branch", "variables": {"shop": {"ADDRESS": 7}}}),
            "bad_field",
            "variables",
        ),
    ];
    for (body, code, field) in cases {
        let told = problem(hq.operator(Method::POST, "/v1/sites", &body).await, 422, code).await;
        assert!(told.detail.starts_with(field), "{field}: {}", told.detail);
    }
    let sites = hq.operator_get("/v1/sites").await;
    assert_eq!(sites.as_array().expect("list").len(), 1, "nothing was half made");
}

#[tokio::test]
async fn applying_the_same_blueprint_again_moves_no_site() {
    let (hq, _) = Hq::with_site().await;
    let body = json!({"name": "branch", "vms": [
        {"name": "shop", "template": {"name": "shop", "version": 1}}]});
    let answer = hq.operator(Method::PUT, "/v1/blueprints/branch", &body).await;
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer, json!({"changed": false, "sites": []}));
}
