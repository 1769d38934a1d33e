// SPDX-License-Identifier: Apache-2.0
//! Servers: those that ask to come in (applicants), and those that are in (devices).

use super::blueprints::{decode, encode};
use super::{Tx, slot_of};
use crate::clock::signed;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::report::ServerStatus;
use sqlx::SqlitePool;

/// Applicants without a claim kept at once: enrolment is open to the world.
pub const APPLICANTS_MAX: i64 = 500;
/// Applicants kept of one claim; the one that was quiet for longest gives way.
const APPLICANTS_PER_CLAIM: i64 = 16;
/// Applicants that were not heard for this long are forgotten.
pub const APPLICANT_LIFE_MS: i64 = 7 * 24 * 3600 * 1000;
/// Boots remembered of a device.
const BOOTS_KEPT: i64 = 16;

/// A box that asked for a voucher.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Applicant {
    /// SHA-256 of its SPKI, hex.
    pub key_hash: String,
    /// The identity it will have.
    pub device_id: String,
    /// Serial as it says.
    pub serial: String,
    /// Its key.
    pub spki: Vec<u8>,
    /// Hardware facts, JSON.
    pub facts: String,
    /// The claim it named.
    pub claim: Option<i64>,
    /// Address it came from.
    pub source: String,
}

/// An enrolled server.
#[derive(Debug, Clone)]
pub struct Device {
    /// Identity.
    pub device_id: String,
    /// Site.
    pub site: SiteName,
    /// Place.
    pub slot: NodeSlot,
    /// Serial.
    pub serial: String,
    /// SHA-256 of its SPKI, hex.
    pub key_hash: String,
    /// Whether it may speak; else it is retired or blocked.
    pub active: bool,
    /// Tunnel key as reported.
    pub wg_public_key: String,
    /// LAN addresses as reported.
    pub lan_addresses: Vec<String>,
    /// When it was last heard.
    pub last_seen_ms: Option<i64>,
    /// Last status.
    pub status: Option<ServerStatus>,
}

#[derive(sqlx::FromRow)]
struct DeviceRow {
    device_id: String,
    site: String,
    slot: String,
    serial: String,
    key_hash: String,
    state: String,
    wg_public_key: String,
    lan_addresses: String,
    last_seen_ms: Option<i64>,
    status: Option<String>,
}

/// Stores an applicant, or refreshes it. False when the table is full.
///
/// # Errors
/// Whatever the database says.
pub async fn apply(tx: &mut Tx, who: &Applicant, now_ms: i64) -> Result<bool, sqlx::Error> {
    sqlx::query("DELETE FROM applicants WHERE last_ms < $1")
        .bind(now_ms - APPLICANT_LIFE_MS)
        .execute(&mut **tx)
        .await?;
    if let Some(claim) = who.claim {
        sqlx::query(
            "DELETE FROM applicants WHERE claim = $1 AND key_hash <> $2 AND key_hash NOT IN
                 (SELECT key_hash FROM applicants WHERE claim = $1 AND key_hash <> $2
                  ORDER BY last_ms DESC LIMIT $3)",
        )
        .bind(claim)
        .bind(&who.key_hash)
        .bind(APPLICANTS_PER_CLAIM - 1)
        .execute(&mut **tx)
        .await?;
    } else {
        let (others,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM applicants WHERE claim IS NULL AND key_hash <> $1",
        )
        .bind(&who.key_hash)
        .fetch_one(&mut **tx)
        .await?;
        if others >= APPLICANTS_MAX {
            return Ok(false);
        }
    }
    sqlx::query(
        "INSERT INTO applicants
             (key_hash, device_id, serial, spki, facts, claim, source, first_ms, last_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
         ON CONFLICT (key_hash) DO UPDATE
             SET serial = $3, facts = $5, claim = $6, source = $7, last_ms = $8",
    )
    .bind(&who.key_hash)
    .bind(&who.device_id)
    .bind(&who.serial)
    .bind(&who.spki)
    .bind(&who.facts)
    .bind(who.claim)
    .bind(&who.source)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(true)
}

/// The applicant with this key.
///
/// # Errors
/// Whatever the database says.
pub async fn applicant(tx: &mut Tx, key_hash: &str) -> Result<Option<Applicant>, sqlx::Error> {
    sqlx::query_as(
        "SELECT key_hash, device_id, serial, spki, facts, claim, source
         FROM applicants WHERE key_hash = $1",
    )
    .bind(key_hash)
    .fetch_optional(&mut **tx)
    .await
}

/// Turns an applicant into the device of a slot.
///
/// # Errors
/// Whatever the database says, also when the slot is taken.
pub async fn admit(
    tx: &mut Tx,
    who: &Applicant,
    site: &SiteName,
    slot: NodeSlot,
    cert_not_after_s: u64,
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO devices
             (device_id, site, slot, serial, key_hash, spki, state, enrolled_ms, cert_not_after_s)
         VALUES ($1, $2, $3, $4, $5, $6, 'active', $7, $8)",
    )
    .bind(&who.device_id)
    .bind(site.as_str())
    .bind(slot.to_string())
    .bind(&who.serial)
    .bind(&who.key_hash)
    .bind(&who.spki)
    .bind(now_ms)
    .bind(signed(cert_not_after_s))
    .execute(&mut **tx)
    .await?;
    sqlx::query("DELETE FROM applicants WHERE key_hash = $1")
        .bind(&who.key_hash)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Notes a new certificate.
///
/// # Errors
/// Whatever the database says.
pub async fn renewed(tx: &mut Tx, device_id: &str, not_after_s: u64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE devices SET cert_not_after_s = $2 WHERE device_id = $1")
        .bind(device_id)
        .bind(signed(not_after_s))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The device with this key, active or not.
///
/// # Errors
/// Whatever the database says.
pub async fn by_key(
    from: impl sqlx::SqliteExecutor<'_>,
    key_hash: &str,
) -> Result<Option<Device>, sqlx::Error> {
    let row: Option<DeviceRow> = sqlx::query_as("SELECT * FROM devices WHERE key_hash = $1")
        .bind(key_hash)
        .fetch_optional(from)
        .await?;
    row.map(device).transpose()
}

/// The active device of a slot.
///
/// # Errors
/// Whatever the database says.
pub async fn in_slot(
    from: impl sqlx::SqliteExecutor<'_>,
    site: &SiteName,
    slot: NodeSlot,
) -> Result<Option<Device>, sqlx::Error> {
    let row: Option<DeviceRow> =
        sqlx::query_as("SELECT * FROM devices WHERE site = $1 AND slot = $2 AND state = 'active'")
            .bind(site.as_str())
            .bind(slot.to_string())
            .fetch_optional(from)
            .await?;
    row.map(device).transpose()
}

/// Another active device with this serial.
///
/// # Errors
/// Whatever the database says.
pub async fn same_serial(tx: &mut Tx, serial: &str, key_hash: &str) -> Result<bool, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as(
        "SELECT COUNT(*) FROM devices WHERE serial = $1 AND key_hash <> $2 AND state = 'active'",
    )
    .bind(serial)
    .bind(key_hash)
    .fetch_one(&mut **tx)
    .await?;
    Ok(count > 0)
}

/// All active devices, by site and slot.
///
/// # Errors
/// Whatever the database says.
pub async fn list(pool: &SqlitePool) -> Result<Vec<Device>, sqlx::Error> {
    let rows: Vec<DeviceRow> =
        sqlx::query_as("SELECT * FROM devices WHERE state = 'active' ORDER BY site, slot")
            .fetch_all(pool)
            .await?;
    rows.into_iter().map(device).collect()
}

/// Whether a report is new, and the highest sequence stored for its boot. Notes it if it is.
///
/// # Errors
/// Whatever the database says.
pub async fn note_report(
    tx: &mut Tx,
    device_id: &str,
    boot: u64,
    seq: u64,
    now_ms: i64,
) -> Result<(bool, u64), sqlx::Error> {
    let boots: Vec<(String, String)> = sqlx::query_as(
        "SELECT boot, seq FROM boots WHERE device_id = $1 ORDER BY first_ms DESC, rowid DESC",
    )
    .bind(device_id)
    .fetch_all(&mut **tx)
    .await?;
    let boot = boot.to_string();
    let place = boots.iter().position(|(known, _)| *known == boot);
    let stored: u64 = place.and_then(|at| boots[at].1.parse().ok()).unwrap_or(0);
    // A boot that is known and not the newest is over: what it says now comes late.
    if place.is_some_and(|at| at > 0 || stored >= seq) {
        return Ok((false, stored));
    }
    sqlx::query(
        "INSERT INTO boots (device_id, boot, seq, first_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (device_id, boot) DO UPDATE SET seq = $3",
    )
    .bind(device_id)
    .bind(&boot)
    .bind(seq.to_string())
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    if place.is_none() {
        sqlx::query(
            "DELETE FROM boots WHERE device_id = $1 AND rowid NOT IN
                 (SELECT rowid FROM boots WHERE device_id = $1
                  ORDER BY first_ms DESC, rowid DESC LIMIT $2)",
        )
        .bind(device_id)
        .bind(BOOTS_KEPT)
        .execute(&mut **tx)
        .await?;
    }
    Ok((true, seq))
}

/// Stores a status; true if what the peer must know of this server changed.
///
/// # Errors
/// Whatever the database says.
pub async fn store_status(
    tx: &mut Tx,
    device: &Device,
    status: &ServerStatus,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let roster_changed = status.wg_public_key != device.wg_public_key
        || status.lan_addresses != device.lan_addresses;
    sqlx::query(
        "UPDATE devices SET status = $2, last_seen_ms = $3, wg_public_key = $4, lan_addresses = $5
         WHERE device_id = $1",
    )
    .bind(&device.device_id)
    .bind(serde_json::to_string(status).map_err(encode)?)
    .bind(now_ms)
    .bind(&status.wg_public_key)
    .bind(serde_json::to_string(&status.lan_addresses).map_err(encode)?)
    .execute(&mut **tx)
    .await?;
    Ok(roster_changed)
}

fn device(row: DeviceRow) -> Result<Device, sqlx::Error> {
    Ok(Device {
        device_id: row.device_id,
        site: SiteName::new(row.site).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        slot: slot_of(&row.slot),
        serial: row.serial,
        key_hash: row.key_hash,
        active: row.state == "active",
        wg_public_key: row.wg_public_key,
        lan_addresses: serde_json::from_str(&row.lan_addresses).map_err(decode)?,
        last_seen_ms: row.last_seen_ms,
        // A status of an older form is as good as none: the next report replaces it.
        status: row.status.and_then(|s| serde_json::from_str(&s).ok()),
    })
}

/// Takes a device out of service.
///
/// # Errors
/// Whatever the database says.
pub async fn retire(tx: &mut Tx, device_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE devices SET state = 'retired' WHERE device_id = $1")
        .bind(device_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
