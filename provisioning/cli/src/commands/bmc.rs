// SPDX-License-Identifier: Apache-2.0
//! `forecourt site bmc`: how the other server of a pair reaches this one's BMC.

use crate::api::{Hq, read_text};
use crate::args::BmcOptions;
use crate::error::{Failure, Outcome};
use provisioning_protocol::bmc::{Bmc, NewBmc};
use provisioning_protocol::desired::Secret;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use reqwest::Method;

pub async fn run(hq: &Hq, site: &SiteName, slot: NodeSlot, options: BmcOptions) -> Outcome<()> {
    let path = format!("/v1/sites/{site}/bmc/{slot}");
    if options.remove {
        hq.send_bytes(Method::DELETE, &path, Vec::new()).await?;
        println!("the BMC of server {slot} of {site} is not used any more");
        return Ok(());
    }
    let new = read(options)?;
    hq.send_json(Method::PUT, &path, &new).await?;
    println!("server {} of {site} may switch server {slot} off and on by its BMC", slot.peer());
    println!("whether it reaches that BMC is told among its problems: forecourt site show {site}");
    Ok(())
}

fn read(options: BmcOptions) -> Outcome<NewBmc> {
    let text = match &options.password_file {
        Some(path) => read_text(path, "password file")?,
        None => String::new(),
    };
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    let new = NewBmc {
        url: options.url.unwrap_or_default(),
        user: options.user.unwrap_or_default(),
        password: Secret(password.to_owned()),
        fingerprint: options.fingerprint.unwrap_or_default(),
        system: options.system,
    };
    // Told before anything is sent.
    Bmc::try_from(new.clone()).map_err(|fault| Failure::input(fault.to_string()))?;
    Ok(new)
}
