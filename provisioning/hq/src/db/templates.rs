// SPDX-License-Identifier: Apache-2.0
//! Templates that the published catalogue names, as operators see them.

use super::Tx;
use super::blueprints::{decode, encode};
use crate::clock::signed;
use provisioning_protocol::operator::TemplateView;
use provisioning_protocol::template::TemplateRef;
use sqlx::SqlitePool;

/// Makes exactly these the published ones. Others stay known, for sites that run them.
///
/// # Errors
/// Whatever the database says.
pub async fn publish(
    tx: &mut Tx,
    templates: &[TemplateView],
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE templates SET published = 0").execute(&mut **tx).await?;
    for view in templates {
        let body = serde_json::to_string(view).map_err(encode)?;
        sqlx::query(
            "INSERT INTO templates (name, version, body, published, published_ms)
             VALUES ($1, $2, $3, 1, $4)
             ON CONFLICT (name, version) DO UPDATE SET body = $3, published = 1",
        )
        .bind(view.template.name.as_str())
        .bind(signed(view.template.version.0))
        .bind(body)
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Whether sites may be given this version.
///
/// # Errors
/// Whatever the database says.
pub async fn is_published(
    from: impl sqlx::SqliteExecutor<'_>,
    template: &TemplateRef,
) -> Result<bool, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as(
        "SELECT COUNT(*) FROM templates WHERE name = $1 AND version = $2 AND published = 1",
    )
    .bind(template.name.as_str())
    .bind(signed(template.version.0))
    .fetch_one(from)
    .await?;
    Ok(count > 0)
}

/// One template, published still or not.
///
/// # Errors
/// Whatever the database says.
pub async fn get(
    from: impl sqlx::SqliteExecutor<'_>,
    template: &TemplateRef,
) -> Result<Option<TemplateView>, sqlx::Error> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT body FROM templates WHERE name = $1 AND version = $2")
            .bind(template.name.as_str())
            .bind(signed(template.version.0))
            .fetch_optional(from)
            .await?;
    row.map(|(body,)| serde_json::from_str(&body).map_err(decode)).transpose()
}

/// All published templates, newest version of a name first.
///
/// # Errors
/// Whatever the database says.
pub async fn list(pool: &SqlitePool) -> Result<Vec<TemplateView>, sqlx::Error> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT body FROM templates WHERE published = 1 ORDER BY name, version DESC",
    )
    .fetch_all(pool)
    .await?;
    rows.iter().map(|(body,)| serde_json::from_str(body).map_err(decode)).collect()
}
