// SPDX-License-Identifier: Apache-2.0
//! Blueprints: listing, showing, applying.

use super::variables;
use crate::app::App;
use crate::db::{Tx, audit, blueprints, sites, templates};
use crate::http::{Operator, ReadJson};
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use provisioning_protocol::ids::{BlueprintName, SiteName};
use provisioning_protocol::operator::Blueprint;
use serde::Serialize;
use std::collections::BTreeSet;

/// Most VMs of a blueprint.
const VMS_MAX: usize = 32;

#[derive(Serialize)]
pub(super) struct Applied {
    changed: bool,
    sites: Vec<SiteName>,
}

pub(super) async fn list(State(app): State<App>, _: Operator) -> Answer<Json<Vec<Blueprint>>> {
    Ok(Json(blueprints::list(app.db.reader()).await?))
}

pub(super) async fn show(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<Json<Blueprint>> {
    let missing = || Failure::not_found("blueprint", &name);
    let wanted = BlueprintName::new(name.clone()).map_err(|_| missing())?;
    blueprints::get(app.db.reader(), &wanted).await?.map(Json).ok_or_else(missing)
}

pub(super) async fn apply(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
    ReadJson(blueprint): ReadJson<Blueprint>,
) -> Answer<Json<Applied>> {
    if blueprint.name.as_str() != name {
        return Err(Failure::invalid("name: the body names another blueprint than the address"));
    }
    let now_ms = app.clock.now_ms();
    let mut tx = app.db.write().await?;
    check(&mut tx, &blueprint).await?;
    let changed = blueprints::put(&mut tx, &blueprint, now_ms).await?;
    let mut moved = Vec::new();
    if changed {
        for site in sites::list(&mut *tx).await? {
            if site.blueprint == blueprint.name {
                number_vms(&mut tx, &site.name, &blueprint).await?;
                let revision = sites::bump(&mut tx, &site.name).await?;
                moved.push((site.name, revision));
            }
        }
        audit(&mut tx, now_ms, "blueprint.apply", &name, &format!("{} sites", moved.len())).await?;
    }
    tx.commit().await?;
    for (site, revision) in &moved {
        app.hub.site_changed(site, *revision);
    }
    let sites = moved.into_iter().map(|(site, _)| site).collect();
    Ok(Json(Applied { changed, sites }))
}

/// Gives all VMs of a blueprint their numbers at a site.
pub(super) async fn number_vms(tx: &mut Tx, site: &SiteName, blueprint: &Blueprint) -> Answer<()> {
    for vm in &blueprint.vms {
        if let Some(template) = templates::get(&mut **tx, &vm.template).await? {
            sites::number_vm(tx, site, &vm.name, &template.vm.disks).await?;
        }
    }
    Ok(())
}

async fn check(tx: &mut Tx, blueprint: &Blueprint) -> Answer<()> {
    if !(1..=VMS_MAX).contains(&blueprint.vms.len()) {
        return Err(Failure::invalid(format!("vms: 1 to {VMS_MAX} are allowed")));
    }
    let mut names = BTreeSet::new();
    for (at, vm) in blueprint.vms.iter().enumerate() {
        if !names.insert(&vm.name) {
            return Err(Failure::invalid(format!("vms[{at}].name: {} is there twice", vm.name)));
        }
        let published = templates::is_published(&mut **tx, &vm.template).await?;
        let Some(template) = templates::get(&mut **tx, &vm.template).await?.filter(|_| published)
        else {
            let detail = format!("vms[{at}].template: {} is not published", vm.template);
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(Failure::new(status, "unknown_template", "Template not known", detail));
        };
        variables::check(&format!("vms[{at}].variables"), &vm.variables, &template.vm)?;
    }
    Ok(())
}
