// SPDX-License-Identifier: Apache-2.0
//! Servers' BMCs.

use super::Tx;
use super::blueprints::{decode, encode};
use provisioning_protocol::bmc::Bmc;
use provisioning_protocol::ids::{NodeSlot, SiteName};

/// The BMC of the server in a slot.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    site: &SiteName,
    slot: NodeSlot,
) -> Result<Option<Bmc>, sqlx::Error> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT body FROM bmcs WHERE site = $1 AND slot = $2")
            .bind(site.as_str())
            .bind(slot.to_string())
            .fetch_optional(from)
            .await?;
    row.map(|(body,)| serde_json::from_str(&body).map_err(decode)).transpose()
}

/// Stores it in place of an earlier one.
///
/// # Errors
/// Whatever the database says.
pub async fn set(
    tx: &mut Tx,
    site: &SiteName,
    slot: NodeSlot,
    bmc: &Bmc,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO bmcs (site, slot, body) VALUES ($1, $2, $3)
         ON CONFLICT (site, slot) DO UPDATE SET body = excluded.body",
    )
    .bind(site.as_str())
    .bind(slot.to_string())
    .bind(serde_json::to_string(bmc).map_err(encode)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets it; false if there was none.
///
/// # Errors
/// Whatever the database says.
pub async fn remove(tx: &mut Tx, site: &SiteName, slot: NodeSlot) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("DELETE FROM bmcs WHERE site = $1 AND slot = $2")
        .bind(site.as_str())
        .bind(slot.to_string())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}
