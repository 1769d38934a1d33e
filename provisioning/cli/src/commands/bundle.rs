// SPDX-License-Identifier: Apache-2.0
//! The owner bundle and the claim sticks' files.

use crate::api::{Hq, read_text, write_file};
use crate::args::{Bundle, OwnerBundle as Args};
use crate::error::{Failure, Kind, Outcome};
use provisioning_protocol::operator::ClaimCodes;
use provisioning_protocol::owner::OwnerBundle;
use std::path::Path;

/// `forecourt owner-bundle`.
pub async fn write(hq: &Hq, args: &Args) -> Outcome<()> {
    write_file(&args.out, &owner(hq, &args.bundle).await?)?;
    println!("wrote {}", args.out.display());
    Ok(())
}

/// Writes `DIR/SLOT/claim.txt` and `DIR/SLOT/owner.json` for each code.
pub async fn sticks(hq: &Hq, dir: &Path, bundle: &Bundle, codes: &ClaimCodes) -> Outcome<()> {
    let owner = owner(hq, bundle).await?;
    for (slot, code) in &codes.codes {
        let folder = dir.join(slot.to_string());
        write_file(&folder.join("claim.txt"), format!("{code}\n").as_bytes())?;
        write_file(&folder.join("owner.json"), &owner)?;
    }
    Ok(())
}

async fn owner(hq: &Hq, bundle: &Bundle) -> Outcome<Vec<u8>> {
    let mut owner: OwnerBundle = hq.get("/v1/owner-bundle").await?;
    if !bundle.urls.is_empty() {
        owner.hq_urls.clone_from(&bundle.urls);
    }
    if let Some(file) = &bundle.tuf_root {
        owner.tuf_root_json = read_text(file, "root.json")?;
    }
    if owner.hq_urls.is_empty() {
        return Err(Failure::input("no HQ address is known for claim sticks")
            .hint("give --url https://HQ:443, as servers see HQ"));
    }
    serde_json::to_vec_pretty(&owner)
        .map_err(|e| Failure::caused(Kind::Internal, "owner.json cannot be made", &e))
}
