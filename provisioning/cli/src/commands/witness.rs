// SPDX-License-Identifier: Apache-2.0
//! `forecourt witness`.

use crate::api::Hq;
use crate::args::Witness;
use crate::error::Outcome;
use crate::output;
use provisioning_protocol::witness::WitnessRecord;

pub async fn run(hq: &Hq, what: Witness) -> Outcome<()> {
    let Witness::Show { site, json } = what;
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
