// SPDX-License-Identifier: Apache-2.0
//! Draining a server, returning it to service, and whether VMs go back to their homes.

use super::sites::{known_name, known_slot};
use crate::app::App;
use crate::clock::unsigned;
use crate::db::{audit, devices, sites};
use crate::http::Operator;
use crate::problem::{Answer, Failure};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::peer::PeerState;

/// A report older than this says nothing of a server's state now (they come every 10 s).
const REPORT_AGE_S_MAX: u64 = 60;

/// Has the other server run all VMs, if it is in sync. Asking again is no change.
pub(super) async fn drain(
    State(app): State<App>,
    _: Operator,
    Path((name, slot)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (site, slot) = (known_name(&name)?, known_slot(&slot)?);
    let stored = stored(&app, &site).await?;
    match stored.drained {
        Some(known) if known == slot => return Ok(StatusCode::NO_CONTENT),
        Some(other) => {
            let detail = format!("server {other} is drained; return it to service first");
            return Err(Failure::conflict("other_drained", detail));
        }
        None => both_in_sync(&app, &site).await?,
    }
    let text = format!("server {slot} is to run no VM");
    place(&app, &site, Some(slot), stored.rebalance, ("site.drain", "drain", &text)).await
}

/// Returns a drained server to service. Asking again is no change.
pub(super) async fn undrain(
    State(app): State<App>,
    _: Operator,
    Path((name, slot)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (site, slot) = (known_name(&name)?, known_slot(&slot)?);
    let stored = stored(&app, &site).await?;
    if stored.drained != Some(slot) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let text = format!("server {slot} may run VMs again");
    place(&app, &site, None, stored.rebalance, ("site.undrain", "undrain", &text)).await
}

pub(super) async fn rebalance_on(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    rebalance(&app, &known_name(&name)?, true).await
}

pub(super) async fn rebalance_off(
    State(app): State<App>,
    _: Operator,
    Path(name): Path<String>,
) -> Answer<StatusCode> {
    rebalance(&app, &known_name(&name)?, false).await
}

async fn rebalance(app: &App, site: &SiteName, on: bool) -> Answer<StatusCode> {
    let stored = stored(app, site).await?;
    if stored.rebalance == on {
        return Ok(StatusCode::NO_CONTENT);
    }
    let text = if on { "VMs go back to their homes" } else { "VMs stay where they are" };
    place(app, site, stored.drained, on, ("site.rebalance", "rebalance", text)).await
}

async fn stored(app: &App, site: &SiteName) -> Answer<sites::Site> {
    let found = sites::get(app.db.reader(), site).await?;
    found.ok_or_else(|| Failure::not_found("site", site.as_str()))
}

async fn place(
    app: &App,
    site: &SiteName,
    drained: Option<NodeSlot>,
    rebalance: bool,
    (action, code, text): (&str, &str, &str),
) -> Answer<StatusCode> {
    let mut tx = app.db.write().await?;
    sites::place(&mut tx, site, drained, rebalance).await?;
    let revision = sites::bump(&mut tx, site).await?;
    audit(&mut tx, app.clock.now_ms(), action, site.as_str(), text).await?;
    let event = app.event(&mut tx, Some(site), drained, code, text.to_owned()).await?;
    tx.commit().await?;
    app.publish([event]);
    app.hub.site_changed(site, revision);
    Ok(StatusCode::NO_CONTENT)
}

/// Both servers have said lately that they are in sync. They check again before each move; this
/// is to tell the operator at once.
async fn both_in_sync(app: &App, site: &SiteName) -> Answer<()> {
    let now_ms = app.clock.now_ms();
    for slot in NodeSlot::BOTH {
        let device = devices::in_slot(app.db.reader(), site, slot).await?;
        let why = match device.as_ref().and_then(|d| d.status.as_ref().zip(d.last_seen_ms)) {
            None => "has not reported yet".to_owned(),
            Some((_, seen)) if unsigned((now_ms - seen) / 1000) > REPORT_AGE_S_MAX => {
                format!("has not reported for {} s", unsigned((now_ms - seen) / 1000))
            }
            Some((status, _)) if status.pair.state != PeerState::Pair => {
                format!("is not in sync: {}", status.pair.cause)
            }
            Some(_) => continue,
        };
        let detail = format!("nothing is moved while server {slot} {why}");
        return Err(Failure::conflict("not_in_sync", detail));
    }
    Ok(())
}
