// SPDX-License-Identifier: Apache-2.0
//! Draining a server and rebalancing: who is told, and what is refused.

use crate::support::{Hq, Server, problem, status};
use provisioning_protocol::desired::Desired;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::PeerState;
use reqwest::{Method, Response};
use serde_json::json;

async fn order(hq: &Hq, method: Method, what: &str) -> Response {
    hq.operator(method, &format!("/v1/sites/kassel/{what}"), &json!({})).await
}

async fn desired(hq: &Hq, server: &Server) -> Desired {
    let request = server.client(hq).get(hq.url("/v1/agent/desired?wait=0"));
    request.send().await.expect("HQ answers").json().await.expect("desired state")
}

async fn report(hq: &Hq, server: &mut Server, state: PeerState) {
    let mut told = status();
    told.pair.state = state;
    told.pair.cause = "the volumes are being brought up to date".into();
    let report = server.report(told, Vec::new());
    assert_eq!(server.send(hq, &report).await.status(), 200);
}

#[tokio::test]
async fn a_drain_is_refused_unless_both_servers_say_that_they_are_in_sync() {
    let (hq, codes) = Hq::with_site().await;
    let refused = |answer| problem(answer, 409, "not_in_sync");
    let told = refused(order(&hq, Method::PUT, "servers/A/drain").await).await;
    assert!(told.detail.contains("server A has not reported yet"), "{}", told.detail);
    let [mut a, mut b] = hq.enrol_pair(&codes).await;
    report(&hq, &mut a, PeerState::Pair).await;
    report(&hq, &mut b, PeerState::Resync).await;
    let told = refused(order(&hq, Method::PUT, "servers/A/drain").await).await;
    assert!(told.detail.contains("server B is not in sync: the volumes"), "{}", told.detail);
    assert_eq!(desired(&hq, &a).await.drained, None);
    let other = hq.operator(Method::PUT, "/v1/sites/nowhere/servers/A/drain", &json!({})).await;
    problem(other, 404, "not_found").await;
    problem(order(&hq, Method::PUT, "servers/C/drain").await, 404, "not_found").await;
}

#[tokio::test]
async fn a_drain_reaches_both_servers_and_outlives_hq() {
    let (hq, codes) = Hq::with_site().await;
    let [mut a, mut b] = hq.enrol_pair(&codes).await;
    report(&hq, &mut a, PeerState::Pair).await;
    report(&hq, &mut b, PeerState::Pair).await;
    let before = desired(&hq, &a).await.revision;
    for _ in 0..2 {
        assert_eq!(order(&hq, Method::PUT, "servers/A/drain").await.status(), 204);
    }
    let seen = desired(&hq, &b).await;
    assert_eq!((seen.drained, seen.revision), (Some(NodeSlot::A), before + 1), "twice is once");
    problem(order(&hq, Method::PUT, "servers/B/drain").await, 409, "other_drained").await;
    let hq = hq.restart().await;
    assert_eq!(hq.operator_get("/v1/sites/kassel").await["drained"], "A");
    assert_eq!(order(&hq, Method::DELETE, "servers/B/drain").await.status(), 204);
    assert_eq!(desired(&hq, &a).await.drained, Some(NodeSlot::A), "B was not drained");
    assert_eq!(order(&hq, Method::DELETE, "servers/A/drain").await.status(), 204);
    assert_eq!(desired(&hq, &a).await.drained, None);
}

#[tokio::test]
async fn rebalancing_is_off_until_it_is_wanted() {
    let (hq, codes) = Hq::with_site().await;
    let [a, _] = hq.enrol_pair(&codes).await;
    assert!(!desired(&hq, &a).await.rebalance);
    assert_eq!(order(&hq, Method::PUT, "rebalance").await.status(), 204);
    assert!(desired(&hq, &a).await.rebalance);
    assert_eq!(hq.operator_get("/v1/sites/kassel").await["rebalance"], true);
    assert_eq!(order(&hq, Method::DELETE, "rebalance").await.status(), 204);
    assert!(!desired(&hq, &a).await.rebalance);
}
