// SPDX-License-Identifier: Apache-2.0
//! The witness records, in a file of their own: a swap is on disk before it is answered.

use super::blueprints::{decode, encode};
use super::{DbError, open_pool, witness_place};
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessState, WitnessSwap};
use sqlx::SqlitePool;
use std::collections::BTreeMap;
use std::path::Path;

/// All sites' witness records. Swaps have one connection of their own: they are carried out one
/// after the other, and no reader stands before them.
#[derive(Debug, Clone)]
pub struct Witness {
    swaps: SqlitePool,
    readers: SqlitePool,
}

impl Witness {
    /// Opens or makes `witness.db` in the folder. In a copy of it every record begins anew.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn open(folder: &Path) -> Result<Self, DbError> {
        let path = folder.join("witness.db");
        let swaps = open_pool(&path, 1).await?;
        sqlx::migrate!("migrations/witness")
            .run(&swaps)
            .await
            .map_err(|source| DbError::Migrate { path: path.display().to_string(), source })?;
        let moved = witness_place::settle(&swaps, &path)
            .await
            .map_err(|source| DbError::Open { path: path.display().to_string(), source })?;
        if moved {
            tracing::warn!(
                "the witness's file is a copy or was moved: every pair must register again"
            );
        }
        let readers = open_pool(&path, 2).await?;
        Ok(Self { swaps, readers })
    }

    /// Makes a site's record with this incarnation; an existing one is left alone.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn create(&self, site: &SiteName, incarnation: u64) -> Result<(), sqlx::Error> {
        let state = serde_json::to_string(&WitnessState::new(incarnation)).map_err(encode)?;
        sqlx::query("INSERT INTO witness (site, state) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(site.as_str())
            .bind(state)
            .execute(&self.swaps)
            .await?;
        Ok(())
    }

    /// The record in force.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn record(&self, site: &SiteName) -> Result<Option<WitnessRecord>, sqlx::Error> {
        let row: Option<(String,)> = sqlx::query_as("SELECT state FROM witness WHERE site = $1")
            .bind(site.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|(text,)| read(&text).map(|state| state.record)).transpose()
    }

    /// All records, by site.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn all(&self) -> Result<BTreeMap<String, WitnessRecord>, sqlx::Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT site, state FROM witness").fetch_all(&self.readers).await?;
        rows.into_iter().map(|(site, text)| Ok((site, read(&text)?.record))).collect()
    }

    /// Carries out a swap. The answer exists only after the commit has reached the disk.
    ///
    /// # Errors
    /// Whatever the database says; then nothing was granted.
    pub async fn swap(
        &self,
        site: &SiteName,
        request: &WitnessSwap,
        now_ms: i64,
    ) -> Result<Option<WitnessAnswer>, sqlx::Error> {
        let mut tx = self.swaps.begin_with("BEGIN IMMEDIATE").await?;
        let row: Option<(String,)> = sqlx::query_as("SELECT state FROM witness WHERE site = $1")
            .bind(site.as_str())
            .fetch_optional(&mut *tx)
            .await?;
        let Some((text,)) = row else {
            return Ok(None);
        };
        let mut state = read(&text)?;
        let before = state.record.version;
        let answer = state.swap(request);
        if state.record.version != before {
            sqlx::query("UPDATE witness SET state = $2 WHERE site = $1")
                .bind(site.as_str())
                .bind(serde_json::to_string(&state).map_err(encode)?)
                .execute(&mut *tx)
                .await?;
            sqlx::query(
                "INSERT INTO witness_log (site, at_ms, request, record) VALUES ($1, $2, $3, $4)",
            )
            .bind(site.as_str())
            .bind(now_ms)
            .bind(serde_json::to_string(request).map_err(encode)?)
            .bind(serde_json::to_string(&state.record).map_err(encode)?)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(Some(answer))
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.swaps.close().await;
    }
}

fn read(text: &str) -> Result<WitnessState, sqlx::Error> {
    serde_json::from_str(text).map_err(decode)
}
