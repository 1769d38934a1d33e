// SPDX-License-Identifier: Apache-2.0
//! The pages themselves: login, home, and what keeps it live.

use super::model::Board;
use super::session;
use crate::app::App;
use crate::http::{Peer, check_token, demand_type, read_body};
use crate::problem::{Answer, Failure};
use askama::Template;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use futures_util::StreamExt;
use std::convert::Infallible;
use tokio_stream::wrappers::BroadcastStream;

/// A token is 43 characters; a form that holds one is short.
const FORM_BYTES_MAX: usize = 1024;

#[derive(Template)]
#[template(path = "home.html")]
struct Home<'a> {
    board: &'a Board,
}

#[derive(Template)]
#[template(path = "board.html")]
struct Fragment<'a> {
    board: &'a Board,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login<'a> {
    message: &'a str,
}

pub(super) async fn home(State(app): State<App>, headers: HeaderMap) -> Answer<Response> {
    if !known(&app, &headers) {
        return Ok(Redirect::to("/login").into_response());
    }
    let board = Board::read(&app).await?;
    html(&Home { board: &board })
}

pub(super) async fn fragment(State(app): State<App>, headers: HeaderMap) -> Answer<Response> {
    demand_session(&app, &headers)?;
    let board = Board::read(&app).await?;
    html(&Fragment { board: &board })
}

/// Says that something changed; the page then asks for the fragment.
pub(super) async fn live(State(app): State<App>, headers: HeaderMap) -> Answer<Response> {
    demand_session(&app, &headers)?;
    let first = futures_util::stream::iter([Ok(Event::default().event("changed").data("1"))]);
    let news = BroadcastStream::new(app.hub.listen())
        .map(|_| Ok::<_, Infallible>(Event::default().event("changed").data("1")));
    Ok(Sse::new(first.chain(news)).keep_alive(KeepAlive::default()).into_response())
}

pub(super) async fn login(State(app): State<App>, headers: HeaderMap) -> Answer<Response> {
    if known(&app, &headers) {
        return Ok(Redirect::to("/").into_response());
    }
    html(&Login { message: "" })
}

pub(super) async fn enter(
    State(app): State<App>,
    peer: Peer,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    demand_type(&headers, &["application/x-www-form-urlencoded"])?;
    let body = read_body(&headers, body, FORM_BYTES_MAX).await?;
    let token = form_value(&body, "token").unwrap_or_default();
    if let Err(failure) = check_token(&app, peer.source, Some(&token)) {
        let message = match failure.code() {
            "too_many" => "Too many wrong tokens. Wait a minute and try again.",
            _ => "That is not this HQ's operator token.",
        };
        let page = html(&Login { message })?;
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    }
    let value = session::issue(&app.operator_token, app.clock.now_s());
    let cookie = format!(
        "{}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Strict",
        session::COOKIE,
        session::LIFE_S
    );
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

pub(super) async fn leave() -> Response {
    let cookie =
        format!("{}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict", session::COOKIE);
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

fn known(app: &App, headers: &HeaderMap) -> bool {
    session::valid(headers, &app.operator_token, app.clock.now_s())
}

fn demand_session(app: &App, headers: &HeaderMap) -> Answer<()> {
    if known(app, headers) {
        return Ok(());
    }
    let status = StatusCode::UNAUTHORIZED;
    Err(Failure::new(status, "no_session", "Who are you?", "log in at /login"))
}

fn html(page: &impl Template) -> Answer<Response> {
    Ok(Html(page.render().map_err(|error| Failure::internal(&error))?).into_response())
}

/// One value of a form, percent-decoding undone.
fn form_value(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, value) =
        text.split('&').filter_map(|pair| pair.split_once('=')).find(|p| p.0 == name)?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::form_value;

    #[test]
    fn a_form_value_is_decoded_or_refused_but_never_panics() {
        assert_eq!(form_value(b"a=1&token=x%2By+z", "token").as_deref(), Some("x+y z"));
        for bad in [&b"token=%"[..], b"token=%f", b"token=%zz", b"token=%ff", b"", b"token"] {
            assert_eq!(form_value(bad, "token"), None, "{bad:?}");
        }
    }
}
