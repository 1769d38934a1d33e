// SPDX-License-Identifier: Apache-2.0
//! The event log: bounded, newest last.

use super::{Tx, slot_of};
use crate::clock::{signed, unsigned};
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::EventView;
use provisioning_protocol::report::Event;
use sqlx::SqlitePool;

/// Events kept; older ones are dropped.
const KEEP: i64 = 100_000;
/// Longest text kept, characters.
const TEXT_MAX: usize = 500;

/// Longest code kept, characters.
const CODE_MAX: usize = 40;

type Row = (i64, Option<String>, Option<String>, i64, i64, String, String);

/// Stores an event and returns it as streams see it. Text is cut and freed of control characters.
///
/// # Errors
/// Whatever the database says.
pub async fn add(
    tx: &mut Tx,
    site: Option<&SiteName>,
    slot: Option<NodeSlot>,
    event: &Event,
    now_ms: i64,
) -> Result<EventView, sqlx::Error> {
    let event = Event {
        at_ms: event.at_ms,
        code: clean(&event.code, CODE_MAX),
        text: clean(&event.text, TEXT_MAX),
    };
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO events (site, slot, received_ms, at_ms, code, text)
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
    )
    .bind(site.map(SiteName::as_str))
    .bind(slot.map(|s| s.to_string()))
    .bind(now_ms)
    .bind(signed(event.at_ms))
    .bind(&event.code)
    .bind(&event.text)
    .fetch_one(&mut **tx)
    .await?;
    if id % 1000 == 0 {
        sqlx::query("DELETE FROM events WHERE id <= $1").bind(id - KEEP).execute(&mut **tx).await?;
    }
    Ok(EventView {
        id: unsigned(id),
        site: site.cloned(),
        slot,
        received_ms: unsigned(now_ms),
        event,
    })
}

/// Stores a server's event unless it is there already: one whose confirmation was lost comes again,
/// from another run of the agent, too. A server's events differ in time, code or text.
///
/// # Errors
/// Whatever the database says.
pub async fn add_once(
    tx: &mut Tx,
    site: &SiteName,
    slot: NodeSlot,
    event: &Event,
    now_ms: i64,
) -> Result<Option<EventView>, sqlx::Error> {
    let known: Option<(i64,)> = sqlx::query_as(
        "SELECT id FROM events
         WHERE site = $1 AND slot = $2 AND at_ms = $3 AND code = $4 AND text = $5 LIMIT 1",
    )
    .bind(site.as_str())
    .bind(slot.to_string())
    .bind(signed(event.at_ms))
    .bind(clean(&event.code, CODE_MAX))
    .bind(clean(&event.text, TEXT_MAX))
    .fetch_optional(&mut **tx)
    .await?;
    match known {
        Some(_) => Ok(None),
        None => add(tx, Some(site), Some(slot), event, now_ms).await.map(Some),
    }
}

/// The last `limit` events after `after`, newest last.
///
/// # Errors
/// Whatever the database says.
pub async fn list(
    pool: &SqlitePool,
    site: Option<&SiteName>,
    after: u64,
    limit: u32,
) -> Result<Vec<EventView>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, site, slot, received_ms, at_ms, code, text FROM events
         WHERE id > $1 AND ($2 IS NULL OR site = $2) ORDER BY id DESC LIMIT $3",
    )
    .bind(signed(after))
    .bind(site.map(SiteName::as_str))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().rev().map(view).collect())
}

fn view((id, site, slot, received_ms, at_ms, code, text): Row) -> EventView {
    EventView {
        id: unsigned(id),
        site: site.and_then(|s| SiteName::new(s).ok()),
        slot: slot.as_deref().map(slot_of),
        received_ms: unsigned(received_ms),
        event: Event { at_ms: unsigned(at_ms), code, text },
    }
}

/// Cuts a foreign text and replaces what could confuse a terminal or a reader.
#[must_use]
pub fn clean(text: &str, chars_max: usize) -> String {
    let safe = |c: char| if c.is_control() || is_direction(c) { '\u{fffd}' } else { c };
    text.chars().take(chars_max).map(safe).collect()
}

/// Characters that reorder the text around them.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\n", 500), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        assert_eq!(clean(&"x".repeat(900), 500).len(), 500);
    }
}
