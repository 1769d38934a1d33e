// SPDX-License-Identifier: Apache-2.0
//! Sites: creating, listing, showing; taking a server out of service.

use super::{blueprints::number_vms, claims, variables, views};
use crate::app::App;
use crate::db::{Tx, audit, blueprints, devices, sites, templates};
use crate::http::{Operator, ReadJson};
use crate::hub::News;
use crate::pki;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::{Blueprint, ClaimCodes, NewSite, SiteView};

pub(super) async fn list(State(app): State<App>, _: Operator) -> Answer<Json<Vec<SiteView>>> {
    Ok(Json(views::sites(&app, None).await?))
}

pub(super) async fn show(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<Json<SiteView>> {
    let site = known_name(&name)?;
    let mut found = views::sites(&app, Some(&site)).await?;
    found.pop().map(Json).ok_or_else(|| Failure::not_found("site", &name))
}

pub(super) async fn create(
    State(app): State<App>,
    _: Operator,
    ReadJson(new): ReadJson<NewSite>,
) -> Answer<(StatusCode, Json<ClaimCodes>)> {
    let now_ms = app.clock.now_ms();
    let mut tx = app.db.write().await?;
    let Some(blueprint) = blueprints::get(&mut *tx, &new.blueprint).await? else {
        let detail = format!("blueprint: there is no blueprint \"{}\"", new.blueprint);
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return Err(Failure::new(status, "unknown_blueprint", "Blueprint not known", detail));
    };
    check_variables(&mut tx, &new, &blueprint).await?;
    let secret = BASE64_STANDARD.encode(pki::random::<32>()?);
    if !sites::create(&mut tx, &new, &secret, now_ms).await? {
        let detail = format!("there is a site \"{}\" already", new.name);
        return Err(Failure::conflict("site_exists", detail));
    }
    number_vms(&mut tx, &new.name, &blueprint).await?;
    let codes = claims::issue(&app, &mut tx, &new.name).await?;
    audit(&mut tx, now_ms, "site.create", new.name.as_str(), new.blueprint.as_str()).await?;
    let text = format!("site {} was created from blueprint {}", new.name, new.blueprint);
    let event = app.event(&mut tx, Some(&new.name), None, "site_created", text).await?;
    // Before the commit: a site without a witness record must not exist.
    app.witness.create(&new.name, crate::clock::unsigned(now_ms)).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.tell(News::Changed);
    Ok((StatusCode::CREATED, Json(codes)))
}

async fn check_variables(tx: &mut Tx, new: &NewSite, blueprint: &Blueprint) -> Answer<()> {
    for (name, values) in &new.variables {
        let Some(vm) = blueprint.vms.iter().find(|vm| vm.name == *name) else {
            let detail = format!("variables.{name}: the blueprint has no such VM");
            return Err(Failure::invalid(detail));
        };
        if let Some(template) = templates::get(&mut **tx, &vm.template).await? {
            variables::check(&format!("variables.{name}"), values, &template.vm)?;
        }
    }
    Ok(())
}

/// Takes the server of a slot out of service: its certificate opens nothing any more, and the slot
/// is free for a new claim code.
pub(super) async fn retire(
    State(app): State<App>,
    _: Operator,
    Path((name, slot)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let site = known_name(&name)?;
    let slot = known_slot(&slot)?;
    let mut tx = app.db.write().await?;
    let Some(device) = devices::in_slot(&mut *tx, &site, slot).await? else {
        return Err(Failure::not_found("server", &format!("{name}/{slot}")));
    };
    devices::retire(&mut tx, &device.device_id).await?;
    let revision = sites::bump(&mut tx, &site).await?;
    let subject = format!("{site}/{slot}");
    audit(&mut tx, app.clock.now_ms(), "server.retire", &subject, &device.device_id).await?;
    let text = format!("server {} was taken out of service", device.serial);
    let event = app.event(&mut tx, Some(&site), Some(slot), "server_retired", text).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(&site, revision);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn known_slot(slot: &str) -> Answer<NodeSlot> {
    match slot {
        "A" => Ok(NodeSlot::A),
        "B" => Ok(NodeSlot::B),
        other => Err(Failure::not_found("slot", other)),
    }
}

pub(super) fn known_name(name: &str) -> Answer<SiteName> {
    SiteName::new(name).map_err(|_| Failure::not_found("site", name))
}
