// SPDX-License-Identifier: Apache-2.0
//! Small reads: templates, a site's witness record, the owner bundle.

use crate::app::App;
use crate::db::templates;
use crate::http::Operator;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::{Path, State};
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::operator::TemplateView;
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::witness::WitnessRecord;

pub(super) async fn templates(
    State(app): State<App>,
    _: Operator,
) -> Answer<Json<Vec<TemplateView>>> {
    Ok(Json(templates::list(app.db.reader()).await?))
}

pub(super) async fn witness(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<Json<WitnessRecord>> {
    let missing = || Failure::not_found("site", &name);
    let site = SiteName::new(name.clone()).map_err(|_| missing())?;
    app.witness.record(&site).await?.map(Json).ok_or_else(missing)
}

pub(super) async fn owner_bundle(State(app): State<App>, _: Operator) -> Answer<Json<OwnerBundle>> {
    let root =
        String::from_utf8(app.catalogue.root()?).map_err(|error| Failure::internal(&error))?;
    Ok(Json(OwnerBundle { tuf_root_json: root, ..app.owner.clone() }))
}
