// SPDX-License-Identifier: Apache-2.0
//! `forecourt witness`.

use crate::api::Hq;
use crate::args::Witness;
use crate::error::{Failure, Outcome};
use crate::output;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::local_witness::{NewWitnessBox, WitnessBoxClaim};
use provisioning_protocol::witness::WitnessRecord;
use reqwest::Method;
use std::net::SocketAddr;

pub async fn run(hq: &Hq, what: Witness) -> Outcome<()> {
    match what {
        Witness::Show { site, json } => show(hq, &site, json).await,
        Witness::Box { site, address, json } => claim(hq, &site, address, json).await,
        Witness::BoxRemove { site, destructive } => {
            if !destructive {
                let what = format!("this takes the witness on site of {site} out of service");
                return Err(Failure::input(what).hint("if you mean it, add --destructive"));
            }
            let path = format!("/v1/sites/{site}/witness-box");
            hq.send_bytes(Method::DELETE, &path, Vec::new()).await?;
            println!("the servers of {site} take HQ as their witness once both hear of it");
            Ok(())
        }
    }
}

async fn show(hq: &Hq, site: &SiteName, json: bool) -> Outcome<()> {
    let record: WitnessRecord = hq.get(&format!("/v1/sites/{site}/witness")).await?;
    if json {
        return output::json(&record);
    }
    let in_sync: Vec<String> = record.in_sync.iter().map(ToString::to_string).collect();
    println!("site {site}, epoch {}, record version {}", record.epoch, record.version);
    println!(
        "in sync: {}",
        if in_sync.is_empty() { "nobody yet".into() } else { in_sync.join(" ") }
    );
    match record.winner {
        Some(slot) => println!("server {slot} may go on alone"),
        None => println!("nobody may go on alone"),
    }
    Ok(())
}

async fn claim(hq: &Hq, site: &SiteName, address: SocketAddr, json: bool) -> Outcome<()> {
    let path = format!("/v1/sites/{site}/witness-box");
    let new = NewWitnessBox { address };
    let claim: WitnessBoxClaim = hq.write(Method::PUT, &path, &new).await?;
    if json {
        return output::json(&claim);
    }
    println!("on the box at {address}, within 14 days, in one line:");
    println!(
        "forecourt-witness enrol --dir FOLDER --hq {} --ca-sha256 {} --code {}",
        claim.hq_url, claim.ca_sha256, claim.code
    );
    println!("the servers of {site} take it as their witness once both hear it");
    println!("its certificate is good for two years; the same again renews it");
    Ok(())
}
