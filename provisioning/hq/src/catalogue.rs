// SPDX-License-Identifier: Apache-2.0
//! The catalogue over HTTP: static files for agents and operators, verified uploads by operators.
//!
//! HQ never takes what it cannot check: a chunk must hash to its name, `targets.json` must be
//! signed by the offline keys that the trusted root names, and all it names must be here.

use crate::app::App;
use crate::db::{audit, templates};
use crate::http::{Operator, Reader, read_body};
use crate::hub::News;
use crate::problem::{Answer, Failure};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use jiff::Timestamp;
use provisioning_catalogue::chunks::{CHUNK_BYTES_MAX, ChunkError, ChunkHash, packed_bytes_max};
use provisioning_catalogue::keys::OnlinePublicKeys;
use provisioning_catalogue::manifest::MANIFEST_BYTES_MAX;
use provisioning_catalogue::repository::RepositoryError;
use provisioning_protocol::operator::TemplateView;
use serde::Serialize;
use std::path::PathBuf;
use tokio_util::io::ReaderStream;

/// Longest `root.json` and `targets.json`.
const ROOT_BYTES_MAX: usize = 128 * 1024;
const TARGETS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All catalogue addresses.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/catalogue/metadata/{file}", get(metadata))
        .route("/catalogue/targets/{*path}", get(target))
        .route("/chunks/{*path}", get(chunk).put(put_chunk))
        .route("/v1/catalogue/online-keys", get(online_keys))
        .route("/v1/catalogue/root", get(root).put(put_root))
        .route("/v1/catalogue/manifests", put(put_manifest))
        .route("/v1/catalogue/targets", get(targets).put(publish))
}

async fn metadata(State(app): State<App>, _: Reader, Path(name): Path<String>) -> Answer<Response> {
    let file = app.catalogue.metadata_file(&name);
    serve(file, &name, "no-cache").await
}

async fn target(State(app): State<App>, _: Reader, Path(path): Path<String>) -> Answer<Response> {
    let file = app.catalogue.target_file(&path);
    serve(file, &path, "private, max-age=31536000, immutable").await
}

async fn chunk(State(app): State<App>, _: Reader, Path(path): Path<String>) -> Answer<Response> {
    let file = app.catalogue.chunk_file(&path);
    serve(file, &path, "private, max-age=31536000, immutable").await
}

async fn serve(file: Option<PathBuf>, name: &str, cache: &'static str) -> Answer<Response> {
    let missing = || Failure::not_found("catalogue file", name);
    let file = match tokio::fs::File::open(file.ok_or_else(missing)?).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let length = file.metadata().await?.len();
    let mut response =
        Body::from_stream(ReaderStream::with_capacity(file, 64 * 1024)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

async fn put_chunk(
    State(app): State<App>,
    _: Operator,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let hash = path.rsplit('/').next().unwrap_or_default();
    let hash = ChunkHash::from_hex(hash).map_err(|error| Failure::invalid(error.to_string()))?;
    if path != hash.path() {
        return Err(Failure::invalid(format!("the path of this chunk is {}", hash.path())));
    }
    let packed = read_body(&headers, body, packed_bytes_max(CHUNK_BYTES_MAX)).await?;
    blocking(move || app.catalogue.chunks().add_packed(&hash, &packed)).await?.map_err(
        |error| match error {
            ChunkError::Io { .. } => Failure::internal(&error),
            refused => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                let detail = crate::problem::chain(&refused);
                Failure::new(status, "bad_chunk", "Chunk not accepted", detail)
            }
        },
    )?;
    Ok(StatusCode::NO_CONTENT)
}

async fn online_keys(State(app): State<App>, _: Operator) -> Answer<Json<OnlinePublicKeys>> {
    Ok(Json(app.online_keys.clone()))
}

async fn root(State(app): State<App>, _: Operator) -> Answer<Response> {
    let bytes = blocking(move || app.catalogue.root()).await??;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}

async fn put_root(
    State(app): State<App>,
    _: Operator,
    headers: HeaderMap,
    body: Body,
) -> Answer<StatusCode> {
    let bytes = read_body(&headers, body, ROOT_BYTES_MAX).await?;
    app.catalogue.put_root(&bytes, Timestamp::now()).await?;
    let mut tx = app.db.write().await?;
    audit(&mut tx, app.clock.now_ms(), "catalogue.root", "root.json", "").await?;
    let text = "the catalogue trusts a new root.json";
    let event = app.event(&mut tx, None, None, "catalogue_root", text).await?;
    tx.commit().await?;
    app.publish([event]);
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Serialize)]
struct Missing {
    missing: Vec<ChunkHash>,
}

async fn put_manifest(
    State(app): State<App>,
    _: Operator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Missing>> {
    let limit = usize::try_from(MANIFEST_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = read_body(&headers, body, limit).await?;
    let missing = blocking(move || app.catalogue.put_manifest(&bytes)).await??;
    Ok(Json(Missing { missing }))
}

async fn targets(State(app): State<App>, _: Operator) -> Answer<Response> {
    match blocking(move || app.catalogue.targets()).await?? {
        Some(bytes) => Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response()),
        None => Err(Failure::not_found("catalogue file", "targets.json")),
    }
}

async fn publish(
    State(app): State<App>,
    _: Operator,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<Vec<TemplateView>>> {
    let bytes = read_body(&headers, body, TARGETS_BYTES_MAX).await?;
    app.catalogue.publish(&bytes, Timestamp::now()).await?;
    let before = templates::list(app.db.reader()).await?;
    let views = sync_templates(&app).await?;
    let mut tx = app.db.write().await?;
    let mut news = Vec::new();
    for view in views.iter().filter(|view| !before.contains(view)) {
        let subject = view.template.to_string();
        audit(&mut tx, app.clock.now_ms(), "template.publish", &subject, "").await?;
        let text = format!("template {subject} is published");
        news.push(app.event(&mut tx, None, None, "template_published", text).await?);
    }
    tx.commit().await?;
    app.publish(news);
    app.hub.tell(News::Changed);
    Ok(Json(views))
}

/// Makes the database's list of templates that of the published catalogue.
///
/// # Errors
/// If a published manifest cannot be read, or the database fails.
pub async fn sync_templates(app: &App) -> Answer<Vec<TemplateView>> {
    let reading = app.clone();
    let views = blocking(move || {
        let entries = reading.catalogue.entries()?;
        let view = |entry: &provisioning_catalogue::signing::CatalogueEntry| {
            let manifest = reading.catalogue.manifest(&entry.template)?;
            Ok(TemplateView {
                template: entry.template.clone(),
                image_bytes: manifest.image_bytes(),
                stored_bytes: manifest.stored_bytes(),
                vm: manifest.vm,
            })
        };
        entries.iter().map(view).collect::<Result<Vec<_>, RepositoryError>>()
    })
    .await??;
    let mut tx = app.db.write().await?;
    templates::publish(&mut tx, &views, app.clock.now_ms()).await?;
    tx.commit().await?;
    Ok(views)
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::internal(&error))
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        let detail = crate::problem::chain(&error);
        match error {
            RepositoryError::NoRoot => Self::conflict("no_root", detail),
            RepositoryError::Refused { .. } => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "refused", "Catalogue change not accepted", detail)
            }
            _ => Self::internal(&error),
        }
    }
}
