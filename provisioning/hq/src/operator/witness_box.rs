// SPDX-License-Identifier: Apache-2.0
//! A witness on site: a claim code for its box, and taking it out of service.

use super::sites::known_name;
use crate::app::App;
use crate::db::claims::CLAIM_LIFE_MS;
use crate::db::{Tx, audit, sites, witness_boxes};
use crate::http::{Operator, ReadJson};
use crate::pki;
use crate::problem::{Answer, Failure};
use crate::tls::key_hash;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::local_witness::{NewWitnessBox, WitnessBoxClaim};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::net::SocketAddr;

/// Public ids are 20 bits: a draw that collides is drawn again, but not for ever.
const DRAWS_MAX: usize = 64;

/// Gives out a code for a box at this address. A box in service stays in service until another one,
/// or the same one again, has used the code: so a renewal costs no minute without a witness.
pub(super) async fn set(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
    ReadJson(new): ReadJson<NewWitnessBox>,
) -> Answer<Json<WitnessBoxClaim>> {
    let site = known_name(&name)?;
    if new.address.ip().is_unspecified() || new.address.port() == 0 {
        return Err(Failure::invalid(
            "address: an address and a port of the site's LAN".to_owned(),
        ));
    }
    let now_ms = app.clock.now_ms();
    let mut tx = app.db.write().await?;
    if sites::get(&mut *tx, &site).await?.is_none() {
        return Err(Failure::not_found("site", &name));
    }
    let code = draw(&mut tx, &site, new.address, now_ms).await?;
    let at = new.address.to_string();
    audit(&mut tx, now_ms, "witness_box.claim", site.as_str(), &at).await?;
    tx.commit().await?;
    let ca = CertificateDer::from_pem_slice(app.issuing.cert_pem.as_bytes())
        .map_err(|error| Failure::internal(&error))?;
    Ok(Json(WitnessBoxClaim {
        site,
        address: new.address,
        hq_url: app.owner.hq_urls.first().cloned().unwrap_or_default(),
        ca_sha256: key_hash(&ca),
        code: code.grouped(),
        expires_s: crate::clock::unsigned((now_ms + CLAIM_LIFE_MS) / 1000),
    }))
}

async fn draw(tx: &mut Tx, site: &SiteName, at: SocketAddr, now_ms: i64) -> Answer<ClaimCode> {
    for _ in 0..DRAWS_MAX {
        let code = ClaimCode::from_random(&pki::random()?);
        if witness_boxes::issue(tx, site, at, &code, now_ms).await? {
            return Ok(code);
        }
    }
    Err(Failure::conflict("no_free_claim", "too many claim codes are open at once"))
}

pub(super) async fn remove(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    let site = known_name(&name)?;
    let mut tx = app.db.write().await?;
    if !witness_boxes::remove(&mut tx, &site).await? {
        return Err(Failure::not_found("witness on site", &name));
    }
    let revision = sites::bump(&mut tx, &site).await?;
    audit(&mut tx, app.clock.now_ms(), "witness_box.remove", site.as_str(), "").await?;
    let text = "the witness on site was taken out of service";
    let event = app.event(&mut tx, Some(&site), None, "witness_box_removed", text).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(&site, revision);
    Ok(StatusCode::NO_CONTENT)
}
