// SPDX-License-Identifier: Apache-2.0
//! Tells the witness's own file from a copy of it put back, as the witness on site does
//! ([`provisioning_witness::place`]).
//!
//! A restored backup may lack the last grant and would give it a second time. So every record in it
//! is begun anew under another incarnation: servers believe nothing of that before their pair has
//! registered again (rule R10). HQ moved to another machine looks the same, and is.

use super::blueprints::encode;
use crate::pki;
use provisioning_protocol::witness::WitnessState;
use provisioning_witness::place::Place;
use sqlx::SqlitePool;
use std::path::Path;

/// Compares the file with the one it was; begins every record anew if it is another. Says whether
/// it did.
///
/// # Errors
/// Whatever the system or the database says.
pub async fn settle(pool: &SqlitePool, path: &Path) -> Result<bool, sqlx::Error> {
    let here = Place::of(path).map_err(sqlx::Error::Io)?;
    let here = serde_json::to_string(&here).map_err(encode)?;
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    let known: Option<(String,)> =
        sqlx::query_as("SELECT place FROM witness_place").fetch_optional(&mut *tx).await?;
    let moved = known.as_ref().is_some_and(|(known,)| *known != here);
    if moved {
        let sites: Vec<(String,)> =
            sqlx::query_as("SELECT site FROM witness").fetch_all(&mut *tx).await?;
        for (site,) in sites {
            let state =
                serde_json::to_string(&WitnessState::new(incarnation()?)).map_err(encode)?;
            sqlx::query("UPDATE witness SET state = $2 WHERE site = $1")
                .bind(site)
                .bind(state)
                .execute(&mut *tx)
                .await?;
        }
    }
    if moved || known.is_none() {
        sqlx::query("INSERT OR REPLACE INTO witness_place (one, place) VALUES (1, $1)")
            .bind(here)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(moved)
}

fn incarnation() -> Result<u64, sqlx::Error> {
    let bytes = pki::random().map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    // JSON numbers of other languages are exact up to 2^53.
    Ok(u64::from_be_bytes(bytes) >> 12)
}
