// SPDX-License-Identifier: Apache-2.0
//! M5: a server renews its certificate over mutual TLS, for the key it has. Also one that was cut
//! off for so long that its certificate ended, up to a year ago.

use super::certificate::{PKCS10, answer, bad_csr, pem_to_der};
use crate::app::App;
use crate::csr;
use crate::db::devices;
use crate::http::{Renewing, demand_type, read_body};
use crate::pki;
use crate::problem::{Answer, Failure};
use crate::tls::key_hash;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use provisioning_protocol::enrol::ENROL_BYTES_MAX;

pub(super) async fn renew(
    State(app): State<App>,
    Renewing(agent): Renewing,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    demand_type(&headers, &[PKCS10])?;
    let body = read_body(&headers, body, ENROL_BYTES_MAX).await?;
    let spki = csr::check(&body, Some(&agent.device_id)).map_err(|e| bad_csr(&e))?;
    if key_hash(&spki) != agent.key_hash {
        let detail = "the request must be for the key of the present certificate";
        return Err(Failure::forbidden("other_key", detail));
    }
    let now_s = app.clock.now_s();
    let mut tx = app.db.write().await?;
    devices::renewed(&mut tx, &agent.device_id, pki::device_not_after_s(now_s)).await?;
    tx.commit().await?;
    let der = app.issuing.device_certificate(
        &agent.device_id,
        (&agent.site, agent.slot),
        &spki,
        now_s,
    )?;
    answer(&[der, pem_to_der(&app.issuing.cert_pem)?])
}
