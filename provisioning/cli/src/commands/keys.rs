// SPDX-License-Identifier: Apache-2.0
//! `forecourt keys`: the offline keys that say which templates exist.

use crate::api::{Hq, read_file, write_file};
use crate::args::{Connection, Keys};
use crate::error::{Failure, Kind, Outcome};
use crate::output;
use jiff::Timestamp;
use provisioning_catalogue::keys::{OfflineKeys, OnlinePublicKeys};
use provisioning_catalogue::signing;
use reqwest::Method;
use serde::Serialize;
use std::path::Path;

/// The trusted root in a key folder.
pub const ROOT_FILE: &str = "root.json";

pub async fn run(to: &Connection, what: Keys) -> Outcome<()> {
    match what {
        Keys::Init { dir, online } => init(to, &dir, online.as_deref()).await,
        Keys::Trust { dir } => trust(to, &dir).await,
        Keys::Status { dir, json } => status(to, &dir, json).await,
    }
}

async fn init(to: &Connection, dir: &Path, online: Option<&Path>) -> Outcome<()> {
    let online: OnlinePublicKeys = match online {
        Some(file) => serde_json::from_slice(&read_file(file)?).map_err(|e| {
            Failure::caused(Kind::Input, &format!("{} cannot be read", file.display()), &e)
        })?,
        None => Hq::new(to)?.get("/v1/catalogue/online-keys").await?,
    };
    let keys = OfflineKeys::create(dir)
        .map_err(|e| Failure::caused(Kind::Input, "the keys were not made", &e))?;
    let root = signing::create_root(&keys, &online, Timestamp::now())
        .await
        .map_err(|e| Failure::caused(Kind::Internal, "root.json was not made", &e))?;
    write_file(&dir.join(ROOT_FILE), &root)?;
    println!("made root and targets keys and {ROOT_FILE} in {}", dir.display());
    println!("next: forecourt keys trust --dir {}", dir.display());
    Ok(())
}

async fn trust(to: &Connection, dir: &Path) -> Outcome<()> {
    let root = read_file(&dir.join(ROOT_FILE))?;
    Hq::new(to)?.send_bytes(Method::PUT, "/v1/catalogue/root", root).await?;
    println!("HQ trusts the {ROOT_FILE} of {}", dir.display());
    Ok(())
}

#[derive(Serialize)]
struct Status {
    keys: bool,
    hq_has_root: bool,
    same_root: bool,
}

async fn status(to: &Connection, dir: &Path, json: bool) -> Outcome<()> {
    let ours = std::fs::read(dir.join(ROOT_FILE)).ok();
    let theirs = match Hq::new(to)?.get_bytes("/v1/catalogue/root").await {
        Err(failure) if failure.code.as_deref() == Some("no_root") => None,
        other => other?,
    };
    let status = Status {
        keys: OfflineKeys::open(dir).is_ok(),
        hq_has_root: theirs.is_some(),
        same_root: ours.is_some() && ours == theirs,
    };
    if json {
        return output::json(&status);
    }
    let yes = |answer: bool| if answer { "yes" } else { "no" };
    println!("offline keys in {}: {}", dir.display(), yes(status.keys));
    println!("HQ has a root.json: {}", yes(status.hq_has_root));
    println!("it is the same as ours: {}", yes(status.same_root));
    Ok(())
}
