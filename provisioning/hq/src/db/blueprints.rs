// SPDX-License-Identifier: Apache-2.0
//! Blueprints.

use super::Tx;
use provisioning_protocol::ids::BlueprintName;
use provisioning_protocol::operator::Blueprint;
use sqlx::SqlitePool;

/// Stores a blueprint; true if it is new or differs from the stored one.
///
/// # Errors
/// Whatever the database says.
pub async fn put(tx: &mut Tx, blueprint: &Blueprint, now_ms: i64) -> Result<bool, sqlx::Error> {
    let body = serde_json::to_string(blueprint).map_err(encode)?;
    let done = sqlx::query(
        "INSERT INTO blueprints (name, body, updated_ms) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET body = $2, updated_ms = $3 WHERE body <> $2",
    )
    .bind(blueprint.name.as_str())
    .bind(body)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// One blueprint.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    name: &BlueprintName,
) -> Result<Option<Blueprint>, sqlx::Error> {
    let row: Option<(String,)> = sqlx::query_as("SELECT body FROM blueprints WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(from)
        .await?;
    row.map(|(body,)| serde_json::from_str(&body).map_err(decode)).transpose()
}

/// All blueprints by name.
///
/// # Errors
/// Whatever the database says.
pub async fn list(pool: &SqlitePool) -> Result<Vec<Blueprint>, sqlx::Error> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT body FROM blueprints ORDER BY name").fetch_all(pool).await?;
    rows.iter().map(|(body,)| serde_json::from_str(body).map_err(decode)).collect()
}

/// A value of ours that does not become JSON.
pub(super) fn encode(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Encode(Box::new(error))
}

/// Stored JSON that cannot be read back.
pub(super) fn decode(error: serde_json::Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
