// SPDX-License-Identifier: Apache-2.0
//! M1: a box asks for a voucher.

use super::{slot_taken, usable};
use crate::app::App;
use crate::db::devices::{self, Applicant};
use crate::db::events::clean;
use crate::db::{Tx, claims};
use crate::http::{Peer, demand_type, parse_json, read_body};
use crate::jws;
use crate::problem::{Answer, Failure};
use crate::tls::key_hash;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use provisioning_protocol::enrol::{ENROL_BYTES_MAX, Jws, VOUCHER_JWS, Voucher, VoucherRequest};
use provisioning_protocol::ids::{DeviceId, NodeSlot, SiteName};

/// A voucher answers one fresh nonce; 20 minutes are RFC 8995's advice.
const VOUCHER_LIFE_S: u64 = 20 * 60;
/// Seconds after which a pending box asks again.
const PENDING_RETRY_S: u32 = 60;
const SERIAL_CHARS_MAX: usize = 64;
const TEXT_CHARS_MAX: usize = 120;
const MACS_MAX: usize = 16;

pub(super) async fn request(
    State(app): State<App>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let now_ms = app.clock.now_ms();
    if let Err(wait_s) = app.limits.vouchers.pass(peer.source, now_ms) {
        return Err(Failure::too_many("too many voucher requests from your address", wait_s));
    }
    demand_type(&headers, &[VOUCHER_JWS])?;
    let body = read_body(&headers, body, ENROL_BYTES_MAX).await?;
    let (request, spki) = verified(&body)?;
    let place = admit(&app, &peer, &request, &spki).await?;
    let Some((device_id, site, slot)) = place else {
        return Ok(pending());
    };
    let created_on_s = app.clock.now_s();
    let voucher = Voucher {
        serial_number: request.serial_number,
        nonce: request.nonce,
        device_spki: request.device_spki,
        created_on_s,
        expires_on_s: created_on_s + VOUCHER_LIFE_S,
        assertion: "logged".to_owned(),
        pinned_domain_cert: app.root_ca_pem.clone(),
        device_id: DeviceId(device_id),
        site,
        slot,
    };
    let jws = jws::sign(&serde_json::to_vec(&voucher)?, &app.voucher_key)
        .map_err(|error| Failure::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, VOUCHER_JWS)], serde_json::to_vec(&jws)?).into_response())
}

/// Reads the request and checks that the key in it signed it.
fn verified(body: &[u8]) -> Answer<(VoucherRequest, Vec<u8>)> {
    let refuse = |detail: String| {
        Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_jws", "Request not accepted", detail)
    };
    let signed: Jws = parse_json(body)?;
    let payload = jws::unverified_payload(&signed).map_err(|e| refuse(e.to_string()))?;
    let request: VoucherRequest = parse_json(&payload)?;
    let spki = BASE64_STANDARD
        .decode(&request.device_spki)
        .map_err(|_| refuse("device-spki is no base64".to_owned()))?;
    jws::verify(&signed, &spki).map_err(|e| refuse(e.to_string()))?;
    check(&request)?;
    Ok((request, spki))
}

fn check(request: &VoucherRequest) -> Answer<()> {
    let nonce = BASE64_STANDARD.decode(&request.nonce).unwrap_or_default();
    if nonce.len() != 32 {
        return Err(Failure::invalid("nonce: 32 bytes in base64 are expected"));
    }
    let serial = &request.serial_number;
    let length = serial.chars().count();
    let printable = serial.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if !(1..=SERIAL_CHARS_MAX).contains(&length) || !printable || serial.contains(':') {
        let detail = "serial-number: 1 to 64 printable ASCII characters without a colon";
        return Err(Failure::invalid(detail));
    }
    if request.hw.macs.len() > MACS_MAX || request.hw.macs.iter().any(|mac| mac.len() > 17) {
        return Err(Failure::invalid("hw.macs: at most 16 addresses"));
    }
    let texts = [
        (&request.hw.vendor, "hw.vendor"),
        (&request.hw.product, "hw.product"),
        (&request.hw.smbios_uuid, "hw.smbios-uuid"),
        (&request.agent, "agent"),
        (&request.image, "image"),
    ];
    for (text, field) in texts {
        if text.chars().count() > TEXT_CHARS_MAX {
            return Err(Failure::invalid(format!("{field}: at most {TEXT_CHARS_MAX} characters")));
        }
    }
    Ok(())
}

/// Decides on the place of this key; `None` means: known now, but an operator's word is wanted.
async fn admit(
    app: &App,
    peer: &Peer,
    request: &VoucherRequest,
    spki: &[u8],
) -> Answer<Option<(String, SiteName, NodeSlot)>> {
    let key = key_hash(spki);
    let mut tx = app.db.write().await?;
    if let Some(device) = devices::by_key(&mut *tx, &key).await? {
        if !device.active {
            return Err(Failure::forbidden("blocked", "this server was taken out of service"));
        }
        return Ok(Some((device.device_id, device.site, device.slot)));
    }
    let known = devices::applicant(&mut tx, &key).await?;
    let claim = match &request.claim_id {
        Some(claim_id) => Some(find_claim(app, &mut tx, claim_id, &key).await?),
        None => None,
    };
    if let Some(claim) = &claim {
        if devices::in_slot(&mut *tx, &claim.site, claim.slot).await?.is_some() {
            return Err(slot_taken());
        }
        if devices::same_serial(&mut tx, &request.serial_number, &key).await? {
            let detail = "a server with this serial is enrolled with another key; an operator \
                          must retire it first";
            return Err(Failure::conflict("rekey_needed", detail));
        }
    } else if known.is_none() {
        let now_ms = app.clock.now_ms();
        if let Err(wait_s) = app.limits.applicants.pass(peer.source, now_ms) {
            return Err(Failure::too_many("too many new servers from your address", wait_s));
        }
    }
    let who = Applicant {
        key_hash: key,
        device_id: known
            .as_ref()
            .map_or_else(|| uuid::Uuid::new_v4().to_string(), |k| k.device_id.clone()),
        serial: request.serial_number.clone(),
        spki: spki.to_vec(),
        facts: serde_json::to_string(&request.hw)?,
        claim: claim.as_ref().map(|claim| claim.id),
        source: peer.source.to_string(),
    };
    if !devices::apply(&mut tx, &who, app.clock.now_ms()).await? {
        let detail = "too many servers wait for an operator's word";
        return Err(Failure::too_many(detail, 600));
    }
    let news = announce(app, &mut tx, known.is_none(), claim.as_ref(), &who).await?;
    tx.commit().await?;
    app.publish(news);
    Ok(claim.map(|claim| (who.device_id, claim.site, claim.slot)))
}

async fn find_claim(app: &App, tx: &mut Tx, claim_id: &str, key: &str) -> Answer<claims::Claim> {
    let claim_id: String = claim_id.chars().take(8).collect::<String>().to_ascii_uppercase();
    let Some(claim) = claims::by_public_id(tx, &claim_id).await? else {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let detail = format!("no claim code starts with \"{}\"", clean(&claim_id, 8));
        return Err(Failure::new(status, "bad_claim", "Claim code not accepted", detail));
    };
    usable(&claim, key, app.clock.now_ms())?;
    Ok(claim)
}

async fn announce(
    app: &App,
    tx: &mut Tx,
    new: bool,
    claim: Option<&claims::Claim>,
    who: &Applicant,
) -> Answer<Option<provisioning_protocol::operator::EventView>> {
    if !new {
        return Ok(None);
    }
    let fingerprint = data_encoding::HEXLOWER
        .decode(who.key_hash.as_bytes())
        .map(|hash| data_encoding::HEXUPPER.encode(&hash[..8]))
        .unwrap_or_default();
    let (site, slot, code, text) = match claim {
        Some(claim) => (
            Some(&claim.site),
            Some(claim.slot),
            "voucher",
            format!("server {} asked to enrol and got its voucher", who.serial),
        ),
        None => (
            None,
            None,
            "applicant",
            format!("server {} asks to enrol without a claim code (key {fingerprint})", who.serial),
        ),
    };
    Ok(Some(app.event(tx, site, slot, code, text).await?))
}

fn pending() -> Response {
    let status = StatusCode::ACCEPTED;
    let detail = "HQ knows of this server; enter its claim code or wait for an operator";
    Failure::new(status, "pending", "Waiting", detail).retry_after(PENDING_RETRY_S).into_response()
}
