// SPDX-License-Identifier: Apache-2.0
//! `forecourt blueprint`.

use crate::api::Hq;
use crate::args::Blueprint;
use crate::error::{Failure, Outcome};
use crate::output;
use provisioning_catalogue::yaml;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::operator::Blueprint as Plan;
use reqwest::Method;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Applied {
    changed: bool,
    sites: Vec<SiteName>,
}

pub async fn run(hq: &Hq, what: Blueprint) -> Outcome<()> {
    match what {
        Blueprint::Apply { file } => apply(hq, &file).await,
        Blueprint::List { json } => list(hq, json).await,
    }
}

async fn apply(hq: &Hq, file: &Path) -> Outcome<()> {
    let plan: Plan = yaml::read(file).map_err(|e| Failure::input(e.to_string()))?;
    let path = format!("/v1/blueprints/{}", plan.name);
    let applied: Applied = hq.write(Method::PUT, &path, &plan).await?;
    if applied.changed {
        println!("applied blueprint {}; {} sites follow", plan.name, applied.sites.len());
    } else {
        println!("blueprint {} is unchanged", plan.name);
    }
    Ok(())
}

async fn list(hq: &Hq, json: bool) -> Outcome<()> {
    let plans: Vec<Plan> = hq.get("/v1/blueprints").await?;
    if json {
        return output::json(&plans);
    }
    let row = |plan: &Plan| {
        let vms: Vec<String> =
            plan.vms.iter().map(|vm| format!("{} ({})", vm.name, vm.template)).collect();
        vec![plan.name.to_string(), vms.join(", ")]
    };
    output::table(&["name", "VMs"], plans.iter().map(row).collect(), "there is no blueprint");
    Ok(())
}
