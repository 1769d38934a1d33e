// SPDX-License-Identifier: Apache-2.0
//! Servers' BMCs: set and removed here, never shown again.

use crate::app::App;
use crate::db::{Tx, audit, bmcs, sites};
use crate::http::{Operator, ReadJson};
use crate::problem::{Answer, Failure};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use provisioning_protocol::bmc::{Bmc, NewBmc};
use provisioning_protocol::ids::{NodeSlot, SiteName};

pub(super) async fn set(
    State(app): State<App>,
    _: Operator,
    Path((site, slot)): Path<(String, String)>,
    ReadJson(new): ReadJson<NewBmc>,
) -> Answer<StatusCode> {
    let bmc = Bmc::try_from(new).map_err(|fault| Failure::invalid(fault.to_string()))?;
    let (mut tx, site, slot) = open(&app, &site, &slot).await?;
    bmcs::set(&mut tx, &site, slot, &bmc).await?;
    let text = format!("server {slot}'s BMC is {}", bmc.url);
    finish(&app, tx, &site, slot, "bmc_set", text).await
}

pub(super) async fn remove(
    State(app): State<App>,
    _: Operator,
    Path((site, slot)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (mut tx, site, slot) = open(&app, &site, &slot).await?;
    if !bmcs::remove(&mut tx, &site, slot).await? {
        return Err(Failure::not_found("BMC of server", slot.to_string().as_str()));
    }
    let text = format!("server {slot}'s BMC is not used any more");
    finish(&app, tx, &site, slot, "bmc_removed", text).await
}

async fn open(app: &App, site: &str, slot: &str) -> Answer<(Tx, SiteName, NodeSlot)> {
    let name = SiteName::new(site).map_err(|_| Failure::not_found("site", site))?;
    let slot = match slot {
        "A" => NodeSlot::A,
        "B" => NodeSlot::B,
        other => return Err(Failure::not_found("slot", other)),
    };
    let mut tx = app.db.write().await?;
    sites::get(&mut *tx, &name).await?.ok_or_else(|| Failure::not_found("site", site))?;
    Ok((tx, name, slot))
}

async fn finish(
    app: &App,
    mut tx: Tx,
    site: &SiteName,
    slot: NodeSlot,
    code: &str,
    text: String,
) -> Answer<StatusCode> {
    let revision = sites::bump(&mut tx, site).await?;
    let subject = format!("{site}/{slot}");
    audit(&mut tx, app.clock.now_ms(), &code.replace('_', "."), &subject, &text).await?;
    let event = app.event(&mut tx, Some(site), Some(slot), code, text).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(site, revision);
    Ok(StatusCode::NO_CONTENT)
}
