// SPDX-License-Identifier: Apache-2.0
//! `forecourt witness`.

use crate::api::Hq;
use crate::args::Witness;
use crate::error::{Failure, Kind, Outcome};
use crate::output;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::local_witness::{NewWitnessBox, WitnessBundle};
use provisioning_protocol::witness::WitnessRecord;
use reqwest::Method;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

pub async fn run(hq: &Hq, what: Witness) -> Outcome<()> {
    match what {
        Witness::Show { site, json } => show(hq, &site, json).await,
        Witness::Box { site, address, out } => set_up(hq, &site, address, &out).await,
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

/// The file is made first: HQ gives the key out once, and an earlier box's is void only in words.
async fn set_up(hq: &Hq, site: &SiteName, address: SocketAddr, out: &Path) -> Outcome<()> {
    let failed = |e: std::io::Error| {
        Failure::caused(Kind::Input, &format!("{} cannot be written", out.display()), &e)
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .map_err(failed)?;
    let path = format!("/v1/sites/{site}/witness-box");
    let answer = hq.write::<WitnessBundle>(Method::PUT, &path, &NewWitnessBox { address }).await;
    let bundle = match answer {
        Ok(bundle) => bundle,
        Err(failure) => {
            drop(std::fs::remove_file(out));
            return Err(failure);
        }
    };
    let text = serde_json::to_vec_pretty(&bundle).expect("plain data becomes JSON");
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    println!("wrote {}: copy it to the box at {address}, then delete it here", out.display());
    println!("there: forecourt-witness --dir FOLDER --bundle FILE");
    println!("its certificate is good for two years; run this again to renew it");
    Ok(())
}
