// SPDX-License-Identifier: Apache-2.0
//! Takes reports: replays are dropped, status and events stored, the pair's roster kept current.

use crate::app::App;
use crate::clock::unsigned;
use crate::db::{devices, events, sites};
use crate::http::{Agent, ReadJson};
use crate::hub::News;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use provisioning_protocol::report::{REPORT_EVENTS_MAX, Report, ReportAnswer, ServerStatus};
use std::net::IpAddr;

const LAN_ADDRESSES_MAX: usize = 4;

pub(super) async fn take(
    State(app): State<App>,
    agent: Agent,
    ReadJson(report): ReadJson<Report>,
) -> Answer<Json<ReportAnswer>> {
    check(&report)?;
    let now_ms = app.clock.now_ms();
    let mut tx = app.db.write().await?;
    let (fresh, seq) =
        devices::note_report(&mut tx, &agent.device_id, report.boot, report.seq, now_ms).await?;
    let answer = ReportAnswer { seq, server_time_s: unsigned(now_ms / 1000) };
    if !fresh {
        return Ok(Json(answer));
    }
    let Some(device) = devices::by_key(&mut *tx, &agent.key_hash).await? else {
        return Err(Failure::forbidden("unknown_device", "HQ does not know this server"));
    };
    let roster_changed = devices::store_status(&mut tx, &device, &report.status, now_ms).await?;
    let mut news = Vec::with_capacity(report.events.len());
    for event in &report.events {
        news.extend(events::add_once(&mut tx, &agent.site, agent.slot, event, now_ms).await?);
    }
    let revision =
        if roster_changed { Some(sites::bump(&mut tx, &agent.site).await?) } else { None };
    tx.commit().await?;
    if let Some(revision) = revision {
        tracing::info!(site = %agent.site, slot = %agent.slot, revision, "roster changed");
        app.hub.site_changed(&agent.site, revision);
    }
    app.publish(news);
    app.hub.tell(News::Changed);
    Ok(Json(answer))
}

fn check(report: &Report) -> Answer<()> {
    if report.events.len() > REPORT_EVENTS_MAX {
        let detail = format!("events: at most {REPORT_EVENTS_MAX} in one report");
        return Err(Failure::invalid(detail));
    }
    let ServerStatus { wg_public_key, lan_addresses, .. } = &report.status;
    let key_fits = wg_public_key.is_empty()
        || BASE64_STANDARD.decode(wg_public_key).is_ok_and(|key| key.len() == 32);
    if !key_fits {
        return Err(Failure::invalid("status.wg_public_key: 32 bytes in base64 are expected"));
    }
    if lan_addresses.len() > LAN_ADDRESSES_MAX {
        return Err(Failure::invalid("status.lan_addresses: at most 4"));
    }
    if lan_addresses.iter().any(|text| text.parse::<IpAddr>().is_err()) {
        return Err(Failure::invalid("status.lan_addresses: IP addresses are expected"));
    }
    Ok(())
}
