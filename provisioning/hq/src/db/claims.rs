// SPDX-License-Identifier: Apache-2.0
//! Claim codes: stored hashed, bound to a site and slot, for one use.

use super::{Tx, slot_of};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::{NodeSlot, SiteName};

/// How long a code may be used.
pub const CLAIM_LIFE_MS: i64 = 14 * 24 * 3600 * 1000;
/// Wrong codes after which a claim is void.
pub const TRIES_MAX: i64 = 10;

/// What became of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// Waiting to be used.
    Live,
    /// Used by the key in `used_by`.
    Used,
    /// Replaced by a newer code, or tried wrongly too often.
    Void,
}

/// A claim as stored.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Row.
    pub id: i64,
    /// Site it lets into.
    pub site: SiteName,
    /// Place it lets into.
    pub slot: NodeSlot,
    /// Hash of the whole code.
    pub code_hash: String,
    /// End of life.
    pub expires_ms: i64,
    /// State.
    pub state: ClaimState,
    /// Hash of the device key that used it.
    pub used_by: Option<String>,
}

type Row = (i64, String, String, String, i64, String, Option<String>);

/// Voids a slot's live codes and stores a new one. False if its public id is in use: draw again.
///
/// # Errors
/// Whatever the database says.
pub async fn issue(
    tx: &mut Tx,
    site: &SiteName,
    slot: NodeSlot,
    code: &ClaimCode,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let (taken,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM claims WHERE claim_id = $1 AND state = 'live'")
            .bind(code.id())
            .fetch_one(&mut **tx)
            .await?;
    if taken > 0 {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE claims SET state = 'void' WHERE site = $1 AND slot = $2 AND state = 'live'",
    )
    .bind(site.as_str())
    .bind(slot.to_string())
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "INSERT INTO claims (claim_id, site, slot, code_hash, expires_ms, state)
         VALUES ($1, $2, $3, $4, $5, 'live')",
    )
    .bind(code.id())
    .bind(site.as_str())
    .bind(slot.to_string())
    .bind(code.hash_hex())
    .bind(now_ms + CLAIM_LIFE_MS)
    .execute(&mut **tx)
    .await?;
    Ok(true)
}

/// The claim of a public id: the live one if there is one, else the newest.
///
/// # Errors
/// Whatever the database says.
pub async fn by_public_id(tx: &mut Tx, claim_id: &str) -> Result<Option<Claim>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, site, slot, code_hash, expires_ms, state, used_by FROM claims
         WHERE claim_id = $1 ORDER BY state = 'live' DESC, id DESC LIMIT 1",
    )
    .bind(claim_id)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(claim).transpose()
}

/// A claim by its row.
///
/// # Errors
/// Whatever the database says.
pub async fn by_row(tx: &mut Tx, id: i64) -> Result<Option<Claim>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, site, slot, code_hash, expires_ms, state, used_by FROM claims WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    row.map(claim).transpose()
}

/// Counts a wrong code; at the limit the claim is void. Returns the tries so far.
///
/// # Errors
/// Whatever the database says.
pub async fn count_wrong(tx: &mut Tx, id: i64) -> Result<i64, sqlx::Error> {
    let (tries,): (i64,) = sqlx::query_as(
        "UPDATE claims SET tries = tries + 1,
             state = CASE WHEN state = 'live' AND tries + 1 >= $2 THEN 'void' ELSE state END
         WHERE id = $1 RETURNING tries",
    )
    .bind(id)
    .bind(TRIES_MAX)
    .fetch_one(&mut **tx)
    .await?;
    Ok(tries)
}

/// Marks a claim as used by a device key.
///
/// # Errors
/// Whatever the database says.
pub async fn mark_used(tx: &mut Tx, id: i64, key_hash: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE claims SET state = 'used', used_by = $2 WHERE id = $1")
        .bind(id)
        .bind(key_hash)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn claim(
    (id, site, slot, code_hash, expires_ms, state, used_by): Row,
) -> Result<Claim, sqlx::Error> {
    let state = match state.as_str() {
        "live" => ClaimState::Live,
        "used" => ClaimState::Used,
        _ => ClaimState::Void,
    };
    let site = SiteName::new(site).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(Claim { id, site, slot: slot_of(&slot), code_hash, expires_ms, state, used_by })
}
