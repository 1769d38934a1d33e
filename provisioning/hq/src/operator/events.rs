// SPDX-License-Identifier: Apache-2.0
//! Events: a list, and a stream of server-sent events.

use crate::app::App;
use crate::db::events;
use crate::http::Operator;
use crate::hub::News;
use crate::problem::{Answer, Failure};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{KeepAlive, Sse};
use futures_util::{Stream, StreamExt};
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::operator::EventView;
use serde::Deserialize;
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 500;

#[derive(Deserialize)]
pub(super) struct Which {
    site: Option<SiteName>,
    after: Option<u64>,
    limit: Option<u32>,
}

type Asked = Result<Query<Which>, QueryRejection>;

pub(super) async fn list(
    State(app): State<App>,
    _: Operator,
    which: Asked,
) -> Answer<Json<Vec<EventView>>> {
    let Query(which) = which.map_err(|e| Failure::bad_request(e.body_text()))?;
    let limit = which.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let after = which.after.unwrap_or(0);
    Ok(Json(events::list(app.db.reader(), which.site.as_ref(), after, limit).await?))
}

pub(super) async fn stream(
    State(app): State<App>,
    _: Operator,
    which: Asked,
) -> Answer<Sse<impl Stream<Item = Result<axum::response::sse::Event, Infallible>>>> {
    let Query(which) = which.map_err(|e| Failure::bad_request(e.body_text()))?;
    let news = BroadcastStream::new(app.hub.listen());
    let stream = news.filter_map(move |news| {
        let event = match news {
            Ok(News::Event(event)) if which.site.is_none() || event.site == which.site => {
                axum::response::sse::Event::default()
                    .event("event")
                    .id(event.id.to_string())
                    .json_data(&*event)
                    .ok()
            }
            // Too slow: the reader asks for the list again with its last id.
            Err(_) => Some(axum::response::sse::Event::default().event("lagged").data("")),
            Ok(_) => None,
        };
        std::future::ready(event.map(Ok))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}
