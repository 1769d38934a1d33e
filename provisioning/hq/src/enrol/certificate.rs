// SPDX-License-Identifier: Apache-2.0
//! M2 and M3: the CA certificates, and the first client certificate against the claim code.

use super::{slot_taken, usable};
use crate::app::App;
use crate::csr;
use crate::db::devices::{self, Applicant};
use crate::db::{Tx, claims, sites};
use crate::http::{Peer, demand_type, read_body};
use crate::pki;
use crate::problem::{Answer, Failure};
use crate::tls::key_hash;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::enrol::ENROL_BYTES_MAX;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::EventView;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use subtle::ConstantTimeEq;

/// What the answer's media type is (RFC 7030 section 4.2.3).
pub(super) const PKCS7: &str = "application/pkcs7-mime; smime-type=certs-only";
/// What the request's media type is.
pub(super) const PKCS10: &str = "application/pkcs10";

pub(super) async fn authorities(State(app): State<App>) -> Answer<Response> {
    let certs = [app.root_ca_pem.as_str(), app.issuing.cert_pem.as_str()]
        .into_iter()
        .map(pem_to_der)
        .collect::<Answer<Vec<_>>>()?;
    answer(&certs)
}

pub(super) async fn first(
    State(app): State<App>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let now_ms = app.clock.now_ms();
    if let Some(wait_s) = app.limits.wrong_codes.exhausted(peer.source, now_ms) {
        return Err(Failure::too_many("too many wrong claim codes from your address", wait_s));
    }
    demand_type(&headers, &[PKCS10])?;
    let (serial, code) = credentials(&headers)?;
    let body = read_body(&headers, body, ENROL_BYTES_MAX).await?;
    let spki = csr::check(&body, None).map_err(|error| bad_csr(&error))?;
    let (device_id, place, news, changed) = match admit(&app, &serial, &code, &spki).await? {
        Admission::Done { device_id, place, news, changed } => (device_id, place, news, changed),
        Admission::WrongCode => {
            // The count is what matters; this request is refused in either case.
            let _ = app.limits.wrong_codes.pass(peer.source, now_ms);
            return Err(bad_code());
        }
    };
    let (site, slot) = &place;
    let now_s = app.clock.now_s();
    let der = app.issuing.device_certificate(&device_id, (site, *slot), &spki, now_s)?;
    app.publish(news);
    if let Some((site, revision)) = changed {
        app.hub.site_changed(&site, revision);
    }
    answer(&[der, pem_to_der(&app.issuing.cert_pem)?])
}

enum Admission {
    Done {
        device_id: String,
        place: (SiteName, NodeSlot),
        news: Vec<EventView>,
        changed: Option<(SiteName, u64)>,
    },
    WrongCode,
}

/// Uses the claim and takes the slot, in one transaction. A key that is in already is let in again.
async fn admit(app: &App, serial: &str, code: &str, spki: &[u8]) -> Answer<Admission> {
    let key = key_hash(spki);
    let now_ms = app.clock.now_ms();
    let not_after_s = pki::device_not_after_s(app.clock.now_s());
    let mut tx = app.db.write().await?;
    if let Some(device) = devices::by_key(&mut *tx, &key).await? {
        if !device.active || device.serial != serial {
            return Err(Failure::forbidden("blocked", "this server was taken out of service"));
        }
        devices::renewed(&mut tx, &device.device_id, not_after_s).await?;
        tx.commit().await?;
        let (device_id, place) = (device.device_id, (device.site, device.slot));
        return Ok(Admission::Done { device_id, place, news: Vec::new(), changed: None });
    }
    let who = devices::applicant(&mut tx, &key).await?.filter(|who| who.serial == serial);
    let Some((who, claim_row)) = who.and_then(|who| who.claim.map(|row| (who, row))) else {
        let detail = "no voucher was given for this key and serial; ask for one first";
        return Err(Failure::forbidden("no_voucher", detail));
    };
    let Some(claim) = claims::by_row(&mut tx, claim_row).await? else {
        return Err(Failure::forbidden("no_voucher", "the claim behind the voucher is gone"));
    };
    usable(&claim, &key, now_ms)?;
    if !code_fits(code, &claim.code_hash) {
        let tries = claims::count_wrong(&mut tx, claim.id).await?;
        tx.commit().await?;
        tracing::warn!(site = %claim.site, slot = %claim.slot, tries, "wrong claim code");
        return Ok(Admission::WrongCode);
    }
    if devices::in_slot(&mut *tx, &claim.site, claim.slot).await?.is_some() {
        return Err(slot_taken());
    }
    claims::mark_used(&mut tx, claim.id, &key).await?;
    devices::admit(&mut tx, &who, &claim.site, claim.slot, not_after_s, now_ms).await?;
    let (event, revision) = finish(app, &mut tx, &claim, &who).await?;
    tx.commit().await?;
    Ok(Admission::Done {
        device_id: who.device_id,
        place: (claim.site.clone(), claim.slot),
        news: vec![event],
        changed: Some((claim.site, revision)),
    })
}

async fn finish(
    app: &App,
    tx: &mut Tx,
    claim: &claims::Claim,
    who: &Applicant,
) -> Answer<(EventView, u64)> {
    let revision = sites::bump(tx, &claim.site).await?;
    let text = format!("server {} took its place with its claim code", who.serial);
    let event = app.event(tx, Some(&claim.site), Some(claim.slot), "admitted", text).await?;
    Ok((event, revision))
}

pub(super) fn code_fits(code: &str, hash: &str) -> bool {
    ClaimCode::parse(code)
        .is_ok_and(|code| bool::from(code.hash_hex().as_bytes().ct_eq(hash.as_bytes())))
}

/// `Authorization: Basic base64(serial:code)`.
fn credentials(headers: &HeaderMap) -> Answer<(String, String)> {
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let decoded = value
        .and_then(|v| v.strip_prefix("Basic "))
        .and_then(|v| BASE64_STANDARD.decode(v.trim()).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    decoded
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .map(|(serial, code)| (serial.to_owned(), code.to_owned()))
        .ok_or_else(|| {
            let detail = "send Authorization: Basic with serial and claim code";
            Failure::new(StatusCode::UNAUTHORIZED, "no_claim", "Who are you?", detail)
                .challenge("Basic")
        })
}

pub(super) fn bad_code() -> Failure {
    let detail = "the claim code is not the one of this place; after ten wrong ones it is void";
    Failure::new(StatusCode::UNAUTHORIZED, "bad_claim", "Claim code not accepted", detail)
        .challenge("Basic")
}

pub(super) fn bad_csr(error: &csr::CsrError) -> Failure {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    Failure::new(status, "bad_csr", "Certificate request not accepted", error.to_string())
}

pub(super) fn pem_to_der(pem: &str) -> Answer<Vec<u8>> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|error| Failure::internal(&error))
}

/// A certs-only PKCS#7 in base64.
pub(super) fn answer(certs: &[Vec<u8>]) -> Answer<Response> {
    let body = BASE64_STANDARD.encode(pki::certs_only(certs)?);
    let headers = [
        (header::CONTENT_TYPE, PKCS7),
        (header::HeaderName::from_static("content-transfer-encoding"), "base64"),
    ];
    Ok((headers, body).into_response())
}
