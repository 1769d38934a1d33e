// SPDX-License-Identifier: Apache-2.0
//! Whether this server was cut off since it last ran: said once, with what was last known.

use crate::durable::causes::Causes;
use crate::durable::lifetime::{LastBoot, Lifetime, boot_id};
use crate::hq::client::error_chain;
use crate::identity::clock;
use crate::paths::Paths;
use crate::status::Hub;
use provisioning_protocol::report::Event;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// So exactly is it known when a server was cut off.
const PERIOD: Duration = Duration::from_secs(60);

/// Says how the last boot ended if it ended badly, and keeps the record of this one.
pub fn begin(paths: &Paths, hub: &Hub) {
    let boot = boot_id(Path::new("/"));
    if boot.is_empty() {
        return;
    }
    let (lifetime, last) = Lifetime::open(paths.last_boot(), &boot);
    if let LastBoot::CutOff { alive_s } = last {
        let noted = Causes::new(paths.causes(), &paths.cause_link()).last(1).pop();
        hub.event("cut_off", words(alive_s, noted.as_ref()));
    }
    tokio::spawn(keep(lifetime));
}

/// One line for a person.
fn words(alive_s: u64, noted: Option<&Event>) -> String {
    let mut text =
        format!("This server was reset or lost its power. Last seen alive: {}.", utc(alive_s));
    if let Some(Event { code, text: last, at_ms }) = noted {
        let kind = if code == "reset" { "It reset itself" } else { "Last noted" };
        text.push_str(&format!(" {kind} at {}: {last}", utc(at_ms / 1000)));
    }
    text
}

pub(crate) fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| "unknown".to_owned(), |time| time.strftime("%F %T UTC").to_string())
}

async fn keep(lifetime: Lifetime) {
    let mut told_to_stop = match signal(SignalKind::terminate()) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "the end of this boot cannot be noted"),
    };
    loop {
        if let Err(error) = lifetime.alive(clock::now_s()) {
            tracing::warn!(error = error_chain(&error), "sign of life not kept");
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = told_to_stop.recv() => break,
        }
    }
    if let Err(error) = lifetime.ended(clock::now_s()) {
        tracing::warn!(error = error_chain(&error), "end not kept");
    }
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_when_and_what_was_known_last() {
        let at_ms = 1_795_340_000_000;
        let event = |code: &str, text: &str| Event { at_ms, code: code.into(), text: text.into() };
        let line = words(1_795_340_467, Some(&event("link_lost", "The other server is lost.")));
        assert_eq!(
            line,
            "This server was reset or lost its power. Last seen alive: 2026-11-22 09:41:07 UTC. \
             Last noted at 2026-11-22 09:33:20 UTC: The other server is lost."
        );
        let line = words(u64::MAX, Some(&event("reset", "The eviction hangs.")));
        assert!(line.contains("alive: unknown. It reset itself at"), "{line}");
    }
}
