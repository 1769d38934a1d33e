// SPDX-License-Identifier: Apache-2.0
//! `forecourt site`.

use super::{bmc, bundle};
use crate::api::Hq;
use crate::args::{Site, Sticks, Switch};
use crate::error::{Failure, Outcome};
use crate::output;
use provisioning_catalogue::yaml;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::operator::{ClaimCodes, NewSite, ServerView, SiteView};
use reqwest::Method;
use std::path::Path;

pub async fn run(hq: &Hq, what: Site) -> Outcome<()> {
    match what {
        Site::Create { file, sticks, json } => create(hq, &file, &sticks, json).await,
        Site::List { json } => list(hq, json).await,
        Site::Show { name, json } => show(hq, &name, json).await,
        Site::Bmc { name, slot, options } => bmc::run(hq, &name, slot, options).await,
        Site::Drain { name, slot } => {
            order(hq, Method::PUT, &format!("{name}/servers/{slot}/drain")).await?;
            let other = slot.peer();
            println!(
                "the VMs of {name} go to server {other}, one after the other: each is shut down"
            );
            println!("on {slot} and started on {other}; see: forecourt site show {name}");
            Ok(())
        }
        Site::Undrain { name, slot } => {
            order(hq, Method::DELETE, &format!("{name}/servers/{slot}/drain")).await?;
            println!("server {slot} of {name} may run VMs again");
            Ok(())
        }
        Site::Rebalance { name, to: Switch::On } => {
            order(hq, Method::PUT, &format!("{name}/rebalance")).await?;
            println!("VMs of {name} go back to their home servers when both servers have been in");
            println!("sync for ten minutes: each is shut down and started there");
            Ok(())
        }
        Site::Rebalance { name, to: Switch::Off } => {
            order(hq, Method::DELETE, &format!("{name}/rebalance")).await?;
            println!("VMs of {name} stay where they are");
            Ok(())
        }
        Site::Claims { name, sticks, json } => {
            let path = format!("/v1/sites/{name}/claims");
            let codes: ClaimCodes = hq.write(Method::POST, &path, &serde_json::json!({})).await?;
            tell(hq, &codes, &sticks, json).await
        }
    }
}

async fn order(hq: &Hq, method: Method, what: &str) -> Outcome<()> {
    hq.send_bytes(method, &format!("/v1/sites/{what}"), Vec::new()).await
}

async fn create(hq: &Hq, file: &Path, sticks: &Sticks, json: bool) -> Outcome<()> {
    let new: NewSite = yaml::read(file).map_err(|e| Failure::input(e.to_string()))?;
    let codes: ClaimCodes = hq.write(Method::POST, "/v1/sites", &new).await?;
    if !json {
        println!("created site {}", new.name);
    }
    tell(hq, &codes, sticks, json).await
}

/// Shows claim codes before anything else can fail: HQ will not show them again.
async fn tell(hq: &Hq, codes: &ClaimCodes, sticks: &Sticks, json: bool) -> Outcome<()> {
    if json {
        output::json(codes)?;
    } else {
        for (slot, code) in &codes.codes {
            println!("claim code of server {slot}: {code}");
        }
        if codes.codes.is_empty() {
            println!("both places of site {} are taken; no code was issued", codes.site);
        } else {
            println!("each code works once, for 14 days; HQ does not show it again");
        }
    }
    if let Some(dir) = &sticks.sticks {
        bundle::sticks(hq, dir, &sticks.bundle, codes).await?;
        if !json {
            println!("wrote the claim sticks' files to {}", dir.display());
        }
    }
    Ok(())
}

async fn list(hq: &Hq, json: bool) -> Outcome<()> {
    let sites: Vec<SiteView> = hq.get("/v1/sites").await?;
    if json {
        return output::json(&sites);
    }
    let row = |site: &SiteView| {
        let running = site.vms.iter().filter(|vm| vm.runs_on.is_some()).count();
        vec![
            site.name.to_string(),
            site.blueprint.to_string(),
            site.servers.iter().map(state).collect::<Vec<_>>().join(" / "),
            format!("{running}/{}", site.vms.len()),
            site.witness.epoch.to_string(),
        ]
    };
    let heading = ["name", "blueprint", "A / B", "VMs", "epoch"];
    output::table(&heading, sites.iter().map(row).collect(), "there is no site");
    Ok(())
}

async fn show(hq: &Hq, name: &SiteName, json: bool) -> Outcome<()> {
    let site: SiteView = hq.get(&format!("/v1/sites/{name}")).await?;
    if json {
        return output::json(&site);
    }
    println!("site {}, blueprint {}, revision {}", site.name, site.blueprint, site.revision);
    println!("rebalancing {}", if site.rebalance { "on" } else { "off" });
    for server in &site.servers {
        let drained = if site.drained == Some(server.slot) { ", drained" } else { "" };
        println!(
            "server {}: {}{drained}, serial {}, heard {}",
            server.slot,
            state(server),
            if server.serial.is_empty() { "unknown" } else { &server.serial },
            output::age(server.last_seen_age_s)
        );
        for problem in server.status.iter().flat_map(|status| &status.problems) {
            println!("  {problem}");
        }
    }
    for vm in &site.vms {
        let place = vm.runs_on.map_or_else(
            || "not running".to_owned(),
            |slot| format!("on {slot}, {}", if vm.healthy { "healthy" } else { "running" }),
        );
        println!("VM {} ({}): {place}", vm.name, vm.template);
    }
    Ok(())
}

/// A server's state in one word.
pub fn state(server: &ServerView) -> String {
    match (&server.device_id, &server.status) {
        (None, _) => "empty".to_owned(),
        (Some(_), None) => "enrolled".to_owned(),
        (Some(_), Some(status)) => output::word(&status.pair.state),
    }
}
