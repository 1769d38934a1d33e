// SPDX-License-Identifier: Apache-2.0
//! Sites, their revision, and the numbers their VMs and volumes keep for life.

use super::Tx;
use super::blueprints::{decode, encode};
use crate::clock::{signed, unsigned};
use provisioning_protocol::ids::{BlueprintName, NodeSlot, SiteName, VmName};
use provisioning_protocol::operator::NewSite;
use provisioning_protocol::template::DiskSpec;
use sqlx::SqliteConnection;
use std::collections::BTreeMap;

/// Site values: VM, then variable, then value.
pub type SiteVariables = BTreeMap<VmName, BTreeMap<String, String>>;

/// A site as stored.
#[derive(Debug, Clone)]
pub struct Site {
    /// Name.
    pub name: SiteName,
    /// Its blueprint.
    pub blueprint: BlueprintName,
    /// Its values.
    pub variables: SiteVariables,
    /// Counts every change of the desired state.
    pub revision: u64,
    /// Shared secret of the pair's replication handshakes.
    pub replication_secret: String,
    /// The server that is to run no VM.
    pub drained: Option<NodeSlot>,
    /// Whether VMs go back to their homes.
    pub rebalance: bool,
}

type Row = (String, String, String, i64, String, Option<String>, bool);

const COLUMNS: &str =
    "name, blueprint, variables, revision, replication_secret, drained, rebalance";

/// Stores a new site at revision 1; false if the name is taken.
///
/// # Errors
/// Whatever the database says.
pub async fn create(
    tx: &mut Tx,
    site: &NewSite,
    secret: &str,
    now_ms: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO sites (name, blueprint, variables, revision, replication_secret, created_ms)
         VALUES ($1, $2, $3, 1, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(site.name.as_str())
    .bind(site.blueprint.as_str())
    .bind(serde_json::to_string(&site.variables).map_err(encode)?)
    .bind(secret)
    .bind(now_ms)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// One site.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    name: &SiteName,
) -> Result<Option<Site>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM sites WHERE name = $1"));
    let row: Option<Row> = sqlx::query_as(sql).bind(name.as_str()).fetch_optional(from).await?;
    row.map(site).transpose()
}

/// All sites by name.
///
/// # Errors
/// Whatever the database says.
pub async fn list(from: impl sqlx::SqliteExecutor<'_>) -> Result<Vec<Site>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM sites ORDER BY name"));
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(from).await?;
    rows.into_iter().map(site).collect()
}

/// Counts a change of the site's desired state; call it in the transaction that makes the change.
///
/// # Errors
/// Whatever the database says.
pub async fn bump(tx: &mut Tx, name: &SiteName) -> Result<u64, sqlx::Error> {
    let (revision,): (i64,) = sqlx::query_as(
        "UPDATE sites SET revision = revision + 1 WHERE name = $1 RETURNING revision",
    )
    .bind(name.as_str())
    .fetch_one(&mut **tx)
    .await?;
    Ok(unsigned(revision))
}

/// Stores where the VMs of a site are to run.
///
/// # Errors
/// Whatever the database says.
pub async fn place(
    tx: &mut Tx,
    name: &SiteName,
    drained: Option<NodeSlot>,
    rebalance: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE sites SET drained = $2, rebalance = $3 WHERE name = $1")
        .bind(name.as_str())
        .bind(drained.map(|slot| slot.to_string()))
        .bind(rebalance)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Gives a VM its index and each of its disks a volume number, unless they have one. Numbers are
/// never given twice within a site, also not after a VM is gone.
///
/// # Errors
/// Whatever the database says.
pub async fn number_vm(
    tx: &mut Tx,
    site: &SiteName,
    vm: &VmName,
    disks: &[DiskSpec],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO vm_indexes (site, vm, idx)
         SELECT $1, $2, COALESCE(MAX(idx) + 1, 0) FROM vm_indexes WHERE site = $1
         ON CONFLICT DO NOTHING",
    )
    .bind(site.as_str())
    .bind(vm.as_str())
    .execute(&mut **tx)
    .await?;
    for disk in disks {
        sqlx::query(
            "INSERT INTO volumes (site, vm, disk, number)
             SELECT $1, $2, $3, COALESCE(MAX(number) + 1, 0) FROM volumes WHERE site = $1
             ON CONFLICT (site, vm, disk) DO NOTHING",
        )
        .bind(site.as_str())
        .bind(vm.as_str())
        .bind(disk.name.as_str())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// A VM's index and the volume numbers of these disks, in their order; `None` if any is missing.
///
/// # Errors
/// Whatever the database says.
pub async fn numbers(
    conn: &mut SqliteConnection,
    site: &SiteName,
    vm: &VmName,
    disks: &[DiskSpec],
) -> Result<Option<(u32, Vec<u32>)>, sqlx::Error> {
    let index: Option<(u32,)> =
        sqlx::query_as("SELECT idx FROM vm_indexes WHERE site = $1 AND vm = $2")
            .bind(site.as_str())
            .bind(vm.as_str())
            .fetch_optional(&mut *conn)
            .await?;
    let rows: Vec<(String, u32)> =
        sqlx::query_as("SELECT disk, number FROM volumes WHERE site = $1 AND vm = $2")
            .bind(site.as_str())
            .bind(vm.as_str())
            .fetch_all(conn)
            .await?;
    let known: BTreeMap<String, u32> = rows.into_iter().collect();
    let volumes: Option<Vec<u32>> =
        disks.iter().map(|disk| known.get(disk.name.as_str()).copied()).collect();
    Ok(index.map(|(index,)| index).zip(volumes))
}

fn site(
    (name, blueprint, variables, revision, replication_secret, drained, rebalance): Row,
) -> Result<Site, sqlx::Error> {
    Ok(Site {
        name: SiteName::new(name).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        blueprint: BlueprintName::new(blueprint).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        variables: serde_json::from_str(&variables).map_err(decode)?,
        revision: unsigned(revision),
        replication_secret,
        drained: drained
            .and_then(|text| NodeSlot::BOTH.into_iter().find(|slot| slot.to_string() == text)),
        rebalance,
    })
}

/// The revision alone: what a long poll compares.
///
/// # Errors
/// Whatever the database says.
pub async fn revision(
    from: impl sqlx::SqliteExecutor<'_>,
    name: &SiteName,
) -> Result<u64, sqlx::Error> {
    let (revision,): (i64,) = sqlx::query_as("SELECT revision FROM sites WHERE name = $1")
        .bind(name.as_str())
        .fetch_one(from)
        .await?;
    debug_assert!(signed(unsigned(revision)) == revision);
    Ok(unsigned(revision))
}
