// SPDX-License-Identifier: Apache-2.0
//! What happened when, counted from the start of a run.

use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Seconds since the run started.
    pub at_s: f64,
    /// Who: `a`, `b`, `hq`, `lan`, `lab`, …
    pub who: String,
    /// What, as a sentence without a period.
    pub text: String,
}

/// Shows events as they happen.
pub type Sink = Box<dyn Fn(&Event) + Send + Sync>;

struct Inner {
    start: Instant,
    start_epoch_s: f64,
    events: Mutex<Vec<Event>>,
    sink: Sink,
}

/// A run's events; clones share them.
#[derive(Clone)]
pub struct Timeline(Arc<Inner>);

impl Timeline {
    /// Starts the clock. `sink` is called with each event.
    #[must_use]
    pub fn start(sink: Sink) -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            start_epoch_s: epoch_s(),
            events: Mutex::new(Vec::new()),
            sink,
        }))
    }

    /// A timeline that prints each event.
    #[must_use]
    pub fn printing() -> Self {
        Self::start(Box::new(|e| println!("{:8.2} s  {:6} {}", e.at_s, e.who, e.text)))
    }

    /// Notes that something happened now; returns the time, in seconds since the start.
    pub fn note(&self, who: &str, text: impl Into<String>) -> f64 {
        let at_s = self.now_s();
        self.note_at(at_s, who, text);
        at_s
    }

    /// Notes something that happened at `at_s` and was learnt of now.
    pub fn note_at(&self, at_s: f64, who: &str, text: impl Into<String>) {
        let event = Event { at_s, who: who.to_owned(), text: text.into() };
        (self.0.sink)(&event);
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Seconds since the start.
    #[must_use]
    pub fn now_s(&self) -> f64 {
        self.0.start.elapsed().as_secs_f64()
    }

    /// A wall-clock time of this host as seconds since the start.
    #[must_use]
    pub fn from_epoch_s(&self, epoch_s: f64) -> f64 {
        epoch_s - self.0.start_epoch_s
    }

    /// All events, in the order they were noted.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// This host's wall clock, in seconds since 1970.
#[must_use]
pub fn epoch_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
