// SPDX-License-Identifier: Apache-2.0
//! Claim codes: drawn at random, shown once, stored hashed.

use crate::app::App;
use crate::db::claims::CLAIM_LIFE_MS;
use crate::db::{Tx, audit, claims, devices, sites};
use crate::http::Operator;
use crate::pki;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::{Path, State};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::ClaimCodes;
use std::collections::BTreeMap;

/// Public ids are 20 bits: a draw that collides is drawn again, but not for ever.
const DRAWS_MAX: usize = 64;

pub(super) async fn reissue(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<Json<ClaimCodes>> {
    let missing = || Failure::not_found("site", &name);
    let site = SiteName::new(name.clone()).map_err(|_| missing())?;
    let mut tx = app.db.write().await?;
    sites::get(&mut *tx, &site).await?.ok_or_else(missing)?;
    let codes = issue(&app, &mut tx, &site).await?;
    audit(&mut tx, app.clock.now_ms(), "site.claims", &name, "").await?;
    tx.commit().await?;
    Ok(Json(codes))
}

/// Issues a code for each empty slot and voids the older ones.
pub(super) async fn issue(app: &App, tx: &mut Tx, site: &SiteName) -> Answer<ClaimCodes> {
    let now_ms = app.clock.now_ms();
    let mut codes = BTreeMap::new();
    for slot in NodeSlot::BOTH {
        if devices::in_slot(&mut **tx, site, slot).await?.is_none() {
            codes.insert(slot, draw(tx, site, slot, now_ms).await?.grouped());
        }
    }
    let expires_s = crate::clock::unsigned((now_ms + CLAIM_LIFE_MS) / 1000);
    Ok(ClaimCodes { site: site.clone(), codes, expires_s })
}

async fn draw(tx: &mut Tx, site: &SiteName, slot: NodeSlot, now_ms: i64) -> Answer<ClaimCode> {
    for _ in 0..DRAWS_MAX {
        let code = ClaimCode::from_random(&pki::random()?);
        if claims::issue(tx, site, slot, &code, now_ms).await? {
            return Ok(code);
        }
    }
    Err(Failure::conflict("no_free_claim", "too many claim codes are open at once"))
}
