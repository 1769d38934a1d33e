// SPDX-License-Identifier: Apache-2.0
//! `forecourt events`: the last ones, and those to come.

use crate::api::Hq;
use crate::args::Events;
use crate::error::{Failure, Kind, Outcome};
use futures_util::StreamExt;
use provisioning_protocol::operator::EventView;

/// Longest line of an event stream: HQ's texts are far shorter.
const LINE_BYTES_MAX: usize = 64 * 1024;

pub async fn run(hq: &Hq, what: Events) -> Outcome<()> {
    let site = what.site.as_ref().map(|site| format!("&site={site}")).unwrap_or_default();
    // The stream is opened before the list is read: nothing can fall between them.
    let stream = match what.follow {
        true => Some(hq.stream(&format!("/v1/events/stream?x=1{site}")).await?),
        false => None,
    };
    let limit = what.limit.min(500);
    let events: Vec<EventView> = hq.get(&format!("/v1/events?limit={limit}{site}")).await?;
    let mut last = 0;
    for event in &events {
        last = event.id;
        print(event, what.json)?;
    }
    let Some(stream) = stream else {
        return Ok(());
    };
    let mut bytes = stream.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(part) = bytes.next().await {
        buffer.extend_from_slice(&part.map_err(|e| hq.unreachable(&e))?);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let Some(event) = event_of(&line) else { continue };
            if event.id > last {
                last = event.id;
                print(&event, what.json)?;
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err(Failure::new(Kind::Internal, "HQ's event stream is not understood"));
        }
    }
    Err(Failure::new(Kind::Unreachable, "HQ ended the event stream"))
}

/// The event of a `data:` line.
fn event_of(line: &[u8]) -> Option<EventView> {
    serde_json::from_slice(line.strip_prefix(b"data:")?).ok()
}

fn print(event: &EventView, json: bool) -> Outcome<()> {
    if json {
        let line = serde_json::to_string(event)
            .map_err(|e| Failure::caused(Kind::Internal, "an event cannot be printed", &e))?;
        println!("{line}");
        return Ok(());
    }
    let ms = i64::try_from(event.received_ms).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let place = match (&event.site, event.slot) {
        (Some(site), Some(slot)) => format!("{site}/{slot}"),
        (Some(site), None) => site.to_string(),
        _ => "hq".to_owned(),
    };
    println!(
        "{}  {place:<20} {:<20} {}",
        at.strftime("%FT%TZ"),
        event.event.code,
        event.event.text
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::event_of;

    #[test]
    fn only_data_lines_of_events_are_taken() {
        let event = r#"data: {"id":7,"site":null,"slot":null,"received_ms":1,"event":{"at_ms":1,"code":"x","text":"y"}}"#;
        assert_eq!(event_of(format!("{event}\n").as_bytes()).map(|e| e.id), Some(7));
        for other in ["event: event\n", ": keep-alive\n", "data: \n", "\n"] {
            assert!(event_of(other.as_bytes()).is_none(), "{other:?}");
        }
    }
}
