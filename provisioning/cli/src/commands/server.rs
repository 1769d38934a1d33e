// SPDX-License-Identifier: Apache-2.0
//! `forecourt server`.

use super::site::state;
use crate::api::Hq;
use crate::args::{Connection, Server};
use crate::error::{Failure, Outcome};
use crate::output;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::{ServerView, SiteView};
use reqwest::Method;
use serde::Serialize;

#[derive(Serialize)]
struct Row<'a> {
    site: &'a SiteName,
    #[serde(flatten)]
    server: &'a ServerView,
}

pub async fn run(to: &Connection, what: Server) -> Outcome<()> {
    match what {
        Server::List { site, json } => list(&Hq::new(to)?, site.as_ref(), json).await,
        Server::Retire { site, slot, destructive } => {
            if !destructive {
                let what = format!("this takes server {slot} of {site} out of service for good");
                return Err(Failure::input(what).hint("if you mean it, add --destructive"));
            }
            retire(&Hq::new(to)?, &site, slot).await
        }
    }
}

async fn list(hq: &Hq, only: Option<&SiteName>, json: bool) -> Outcome<()> {
    let sites: Vec<SiteView> = hq.get("/v1/sites").await?;
    let servers = sites
        .iter()
        .filter(|site| only.is_none_or(|only| site.name == *only))
        .flat_map(|site| site.servers.iter().map(|server| Row { site: &site.name, server }))
        .filter(|row| row.server.device_id.is_some());
    let rows: Vec<Row<'_>> = servers.collect();
    if json {
        return output::json(&rows);
    }
    let row = |row: &Row<'_>| {
        let status = row.server.status.as_ref();
        vec![
            row.site.to_string(),
            row.server.slot.to_string(),
            state(row.server),
            row.server.serial.clone(),
            output::age(row.server.last_seen_age_s),
            status.map(|status| status.image.clone()).unwrap_or_default(),
            status.map(|status| status.lan_addresses.join(" ")).unwrap_or_default(),
        ]
    };
    let heading = ["site", "place", "state", "serial", "heard", "image", "addresses"];
    output::table(&heading, rows.iter().map(row).collect(), "no server has enrolled");
    Ok(())
}

async fn retire(hq: &Hq, site: &SiteName, slot: NodeSlot) -> Outcome<()> {
    let path = format!("/v1/sites/{site}/servers/{slot}");
    hq.send_bytes(Method::DELETE, &path, Vec::new()).await?;
    println!("server {slot} of {site} is out of service; its place is free");
    println!("for the next one: forecourt site claims {site}");
    Ok(())
}
