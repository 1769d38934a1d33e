// SPDX-License-Identifier: Apache-2.0
//! Witnesses on site: those in service, and the claim codes of those to come.

use super::Tx;
use super::claims::{CLAIM_LIFE_MS, TRIES_MAX};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::local_witness::WitnessBox;
use std::net::SocketAddr;

/// A code as stored.
#[derive(Debug, Clone)]
pub struct BoxClaim {
    /// Site it lets into.
    pub site: SiteName,
    /// Where the box will listen.
    pub address: SocketAddr,
    /// Hash of the whole code.
    pub code_hash: String,
    /// End of life.
    pub expires_ms: i64,
    /// Wrong codes so far.
    pub tries: i64,
    /// Hash of the signing key that used it.
    pub used_by: Option<String>,
}

impl BoxClaim {
    /// Whether too many wrong codes were tried.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.used_by.is_none() && self.tries >= TRIES_MAX
    }
}

/// A site's enrolled box, if it has one.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    site: &SiteName,
) -> Result<Option<WitnessBox>, sqlx::Error> {
    let row: Option<(String, String)> = sqlx::query_as(
        "SELECT address, key_spki FROM witness_boxes WHERE site = $1 AND key_spki <> ''",
    )
    .bind(site.as_str())
    .fetch_optional(from)
    .await?;
    row.map(|(text, key_spki)| Ok(WitnessBox { address: address(&text)?, key_spki })).transpose()
}

/// Stores a site's box in place of an earlier one.
///
/// # Errors
/// Whatever the database says.
pub async fn set(tx: &mut Tx, site: &SiteName, new: &WitnessBox) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO witness_boxes (site, address, key_spki) VALUES ($1, $2, $3)
         ON CONFLICT (site) DO UPDATE
         SET address = excluded.address, key_spki = excluded.key_spki",
    )
    .bind(site.as_str())
    .bind(new.address.to_string())
    .bind(&new.key_spki)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes a site's box out of service and its code back; false if there was neither.
///
/// # Errors
/// Whatever the database says.
pub async fn remove(tx: &mut Tx, site: &SiteName) -> Result<bool, sqlx::Error> {
    let mut gone = 0;
    for query in [
        "DELETE FROM witness_boxes WHERE site = $1",
        "DELETE FROM witness_box_claims WHERE site = $1",
    ] {
        gone += sqlx::query(query).bind(site.as_str()).execute(&mut **tx).await?.rows_affected();
    }
    Ok(gone > 0)
}

/// Stores a new code in place of the site's earlier one. False if its public id is in use: draw
/// again.
///
/// # Errors
/// Whatever the database says.
pub async fn issue(
    tx: &mut Tx,
    site: &SiteName,
    address: SocketAddr,
    code: &ClaimCode,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO witness_box_claims (site, address, claim_id, code_hash, expires_ms)
         SELECT $1, $2, $3, $4, $5
         WHERE NOT EXISTS (SELECT 1 FROM witness_box_claims WHERE claim_id = $3 AND site <> $1)
         ON CONFLICT (site) DO UPDATE SET address = excluded.address,
             claim_id = excluded.claim_id, code_hash = excluded.code_hash,
             expires_ms = excluded.expires_ms, tries = 0, used_by = NULL",
    )
    .bind(site.as_str())
    .bind(address.to_string())
    .bind(code.id())
    .bind(code.hash_hex())
    .bind(now_ms + CLAIM_LIFE_MS)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The claim of a public id.
///
/// # Errors
/// Whatever the database says.
pub async fn claim(tx: &mut Tx, claim_id: &str) -> Result<Option<BoxClaim>, sqlx::Error> {
    type Row = (String, String, String, i64, i64, Option<String>);
    let row: Option<Row> = sqlx::query_as(
        "SELECT site, address, code_hash, expires_ms, tries, used_by FROM witness_box_claims
         WHERE claim_id = $1",
    )
    .bind(claim_id)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|(site, at, code_hash, expires_ms, tries, used_by)| {
        let site = SiteName::new(site).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(BoxClaim { site, address: address(&at)?, code_hash, expires_ms, tries, used_by })
    })
    .transpose()
}

/// Counts a wrong code.
///
/// # Errors
/// Whatever the database says.
pub async fn count_wrong(tx: &mut Tx, site: &SiteName) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE witness_box_claims SET tries = tries + 1 WHERE site = $1")
        .bind(site.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Marks the code as used by a signing key.
///
/// # Errors
/// Whatever the database says.
pub async fn mark_used(tx: &mut Tx, site: &SiteName, key_hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE witness_box_claims SET used_by = $2 WHERE site = $1")
        .bind(site.as_str())
        .bind(key_hash)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn address(text: &str) -> Result<SocketAddr, sqlx::Error> {
    text.parse().map_err(|error: std::net::AddrParseError| sqlx::Error::Decode(Box::new(error)))
}
