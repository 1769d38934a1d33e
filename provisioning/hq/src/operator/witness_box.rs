// SPDX-License-Identifier: Apache-2.0
//! A witness on site: giving out its certificate and key, and taking it out of service.

use super::sites::known_name;
use crate::app::App;
use crate::db::{audit, sites, witness_boxes};
use crate::http::{Operator, ReadJson};
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use provisioning_protocol::local_witness::{NewWitnessBox, WitnessBundle, box_name};

/// Makes a key and a certificate for the box, tells the servers where it is, and forgets the key.
/// Asked again, it does so anew: the renewal, and the way to another address.
pub(super) async fn set(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
    ReadJson(new): ReadJson<NewWitnessBox>,
) -> Answer<Json<WitnessBundle>> {
    let site = known_name(&name)?;
    if new.address.ip().is_unspecified() || new.address.port() == 0 {
        return Err(Failure::invalid(
            "address: an address and a port of the site's LAN".to_owned(),
        ));
    }
    let names = [box_name(&site)];
    let (cert_pem, key) = app.issuing.witness_certificate(&names, app.clock.now_s())?;
    let mut tx = app.db.write().await?;
    if sites::get(&mut *tx, &site).await?.is_none() {
        return Err(Failure::not_found("site", &name));
    }
    witness_boxes::set(&mut tx, &site, new.address).await?;
    let revision = sites::bump(&mut tx, &site).await?;
    let at = new.address.to_string();
    audit(&mut tx, app.clock.now_ms(), "witness_box.set", site.as_str(), &at).await?;
    let text = format!("a witness on site was set up at {at}");
    let event = app.event(&mut tx, Some(&site), None, "witness_box_set", text).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(&site, revision);
    Ok(Json(WitnessBundle {
        site,
        address: new.address,
        chain_pem: format!("{cert_pem}{}", app.issuing.cert_pem),
        key_pem: key.serialize_pem(),
        client_ca_pem: app.issuing.cert_pem.clone(),
    }))
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
