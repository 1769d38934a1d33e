// SPDX-License-Identifier: Apache-2.0
//! Witnesses on site.

use super::Tx;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::local_witness::WitnessBox;
use std::net::SocketAddr;

/// A site's box, if it has one.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    site: &SiteName,
) -> Result<Option<WitnessBox>, sqlx::Error> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT address FROM witness_boxes WHERE site = $1")
            .bind(site.as_str())
            .fetch_optional(from)
            .await?;
    row.map(|(text,)| Ok(WitnessBox { address: text.parse().map_err(decode)? })).transpose()
}

/// Stores a site's box in place of an earlier one.
///
/// # Errors
/// Whatever the database says.
pub async fn set(tx: &mut Tx, site: &SiteName, address: SocketAddr) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO witness_boxes (site, address) VALUES ($1, $2)
         ON CONFLICT (site) DO UPDATE SET address = excluded.address",
    )
    .bind(site.as_str())
    .bind(address.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes a site's box out of service; false if it had none.
///
/// # Errors
/// Whatever the database says.
pub async fn remove(tx: &mut Tx, site: &SiteName) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("DELETE FROM witness_boxes WHERE site = $1")
        .bind(site.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

fn decode(error: std::net::AddrParseError) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
