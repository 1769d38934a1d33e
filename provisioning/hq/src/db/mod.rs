// SPDX-License-Identifier: Apache-2.0
//! What HQ remembers: SQLite in WAL mode, one writer, every commit synced to disk.

pub mod blueprints;
pub mod bmcs;
pub mod claims;
pub mod devices;
pub mod events;
pub mod sites;
pub mod templates;
pub mod witness;
pub mod witness_boxes;
pub mod witness_place;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Readers at once.
const READERS: u32 = 4;

/// Opening the database failed.
#[derive(Debug, Error)]
pub enum DbError {
    /// Connecting to the file.
    #[error("Opening the database {path} failed")]
    Open {
        /// File.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Bringing it to this version's form.
    #[error("Migrating the database {path} failed")]
    Migrate {
        /// File.
        path: String,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

/// A write transaction.
pub type Tx = Transaction<'static, Sqlite>;

/// The main database.
#[derive(Debug, Clone)]
pub struct Db {
    readers: SqlitePool,
    writer: SqlitePool,
}

impl Db {
    /// Opens or makes `hq.db` in the folder.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn open(folder: &Path) -> Result<Self, DbError> {
        let path = folder.join("hq.db");
        let writer = open_pool(&path, 1).await?;
        sqlx::migrate!("migrations/main")
            .run(&writer)
            .await
            .map_err(|source| DbError::Migrate { path: path.display().to_string(), source })?;
        let readers = open_pool(&path, READERS).await?;
        Ok(Self { readers, writer })
    }

    /// Where reads go.
    #[must_use]
    pub fn reader(&self) -> &SqlitePool {
        &self.readers
    }

    /// Begins a write: takes the database's one write lock at once, so that what is read inside
    /// stays true until the commit.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn write(&self) -> Result<Tx, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Opens a pool on a file with our settings.
///
/// # Errors
/// [`DbError::Open`].
pub async fn open_pool(path: &Path, connections: u32) -> Result<SqlitePool, DbError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5));
    SqlitePoolOptions::new()
        .max_connections(connections)
        .connect_with(options)
        .await
        .map_err(|source| DbError::Open { path: path.display().to_string(), source })
}

/// Slot letter in the database, and back.
#[must_use]
pub fn slot_of(text: &str) -> provisioning_protocol::ids::NodeSlot {
    use provisioning_protocol::ids::NodeSlot;
    if text == "B" { NodeSlot::B } else { NodeSlot::A }
}

/// An operator's write, for the audit.
///
/// # Errors
/// Whatever the database says.
pub async fn audit(
    tx: &mut Tx,
    now_ms: i64,
    action: &str,
    subject: &str,
    detail: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO audit (at_ms, action, subject, detail) VALUES ($1, $2, $3, $4)")
        .bind(now_ms)
        .bind(action)
        .bind(subject)
        .bind(detail)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
