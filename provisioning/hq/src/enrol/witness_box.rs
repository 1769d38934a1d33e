// SPDX-License-Identifier: Apache-2.0
//! A witness on site asks to be let in: its keys were made on the box, its claim code by HQ.
//!
//! One request instead of a server's two: the box knows HQ by the CA that its operator brought with
//! the code, and there is no slot to take. Limits and lives of codes are those of servers.

use super::certificate::{bad_code, bad_csr, code_fits};
use crate::app::App;
use crate::db::witness_boxes::{self, BoxClaim};
use crate::db::{Tx, sites};
use crate::http::{Peer, demand_type, parse_json, read_body};
use crate::problem::{Answer, Failure};
use crate::tls::key_hash;
use crate::{csr, jws};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::enrol::{ENROL_BYTES_MAX, Jws};
use provisioning_protocol::local_witness::{BoxAdmission, BoxRequest, WitnessBox, box_name};

/// A request whose two keys have both been shown to be in the box's hands.
struct Asking {
    code: String,
    tls_spki: Vec<u8>,
    signing_spki: String,
    key_hash: String,
}

pub(super) async fn enrol(
    State(app): State<App>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<BoxAdmission>> {
    let now_ms = app.clock.now_ms();
    if let Some(wait_s) = app.limits.wrong_codes.exhausted(peer.source, now_ms) {
        return Err(Failure::too_many("too many wrong claim codes from your address", wait_s));
    }
    demand_type(&headers, &["application/json"])?;
    let asking = verified(&read_body(&headers, body, ENROL_BYTES_MAX).await?)?;
    let Some(claim) = admit(&app, &asking).await? else {
        // The count is what matters; this request is refused in either case.
        let _ = app.limits.wrong_codes.pass(peer.source, now_ms);
        return Err(bad_code());
    };
    let names = [box_name(&claim.site)];
    let cert = app.issuing.witness_certificate(&names, &asking.tls_spki, app.clock.now_s())?;
    Ok(Json(BoxAdmission {
        site: claim.site,
        address: claim.address,
        chain_pem: format!("{cert}{}", app.issuing.cert_pem),
        client_ca_pem: app.issuing.cert_pem.clone(),
    }))
}

fn verified(body: &[u8]) -> Answer<Asking> {
    let refuse = |detail: String| {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_jws", "Request not accepted", detail)
    };
    let signed: Jws = parse_json(body)?;
    let payload = jws::unverified_payload(&signed).map_err(|e| refuse(e.to_string()))?;
    let request: BoxRequest = parse_json(&payload)?;
    let spki = BASE64_STANDARD
        .decode(&request.signing_spki)
        .map_err(|_| refuse("signing-spki is no base64".to_owned()))?;
    jws::verify(&signed, &spki).map_err(|e| refuse(e.to_string()))?;
    let tls_spki = csr::check(request.csr.as_bytes(), None).map_err(|error| bad_csr(&error))?;
    if tls_spki == spki {
        return Err(refuse("the key that signs must not be the key that ends TLS".to_owned()));
    }
    let (code, signing_spki) = (request.code, BASE64_STANDARD.encode(&spki));
    Ok(Asking { code, tls_spki, signing_spki, key_hash: key_hash(&spki) })
}

/// Uses the code and puts the box into service, in one transaction; `None` for a wrong code. The
/// key that used the code is let in again: its first answer may have been lost.
async fn admit(app: &App, asking: &Asking) -> Answer<Option<BoxClaim>> {
    let Ok(code) = ClaimCode::parse(&asking.code) else { return Ok(None) };
    let mut tx = app.db.write().await?;
    let Some(claim) = witness_boxes::claim(&mut tx, code.id()).await? else { return Ok(None) };
    usable(&claim, &asking.key_hash, app.clock.now_ms())?;
    if !code_fits(&asking.code, &claim.code_hash) {
        witness_boxes::count_wrong(&mut tx, &claim.site).await?;
        tx.commit().await?;
        tracing::warn!(site = %claim.site, tries = claim.tries + 1, "wrong claim code of a witness");
        return Ok(None);
    }
    if claim.used_by.is_none() {
        take_in(app, tx, &claim, asking).await?;
    }
    Ok(Some(claim))
}

async fn take_in(app: &App, mut tx: Tx, claim: &BoxClaim, asking: &Asking) -> Answer<()> {
    let new = WitnessBox { address: claim.address, key_spki: asking.signing_spki.clone() };
    witness_boxes::mark_used(&mut tx, &claim.site, &asking.key_hash).await?;
    witness_boxes::set(&mut tx, &claim.site, &new).await?;
    let revision = sites::bump(&mut tx, &claim.site).await?;
    let short = asking.key_hash.get(..16).unwrap_or_default().to_ascii_uppercase();
    let text = format!("a witness on site was enrolled at {} (key {short})", claim.address);
    let event = app.event(&mut tx, Some(&claim.site), None, "witness_box_set", text).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(&claim.site, revision);
    Ok(())
}

fn usable(claim: &BoxClaim, key_hash: &str, now_ms: i64) -> Answer<()> {
    let (status, code, detail) = match &claim.used_by {
        Some(by) if by == key_hash => return Ok(()),
        Some(_) => (
            StatusCode::CONFLICT,
            "used_claim",
            "this claim code was used by another box; ask HQ for a new one",
        ),
        None if claim.is_void() => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "void_claim",
            "this claim code was tried too often; ask HQ for a new one",
        ),
        None if claim.expires_ms <= now_ms => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "expired_claim",
            "this claim code is older than 14 days; ask HQ for a new one",
        ),
        None => return Ok(()),
    };
    Err(Failure::new(status, code, "Claim code not accepted", detail))
}
