// SPDX-License-Identifier: Apache-2.0
//! Writes the flight recorder in a thread of its own.
//!
//! Whoever tells of an event decides things: a disk that stands still must not make it wait, as the
//! watchdog's lease would run out meanwhile, and so would the patience of a guest that is being moved.

use super::causes::Causes;
use provisioning_protocol::report::Event;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Events that wait for the disk. More are told, and not kept.
const WAITING_MAX: usize = 1024;
/// How long an end waits for a disk.
const END_LIMIT: Duration = Duration::from_secs(1);

enum Order {
    Keep(Event),
    /// All before is done.
    Settle(SyncSender<()>),
}

/// The writer of the log of causes.
#[derive(Debug)]
pub struct Recorder {
    causes: Arc<Causes>,
    orders: SyncSender<Order>,
}

impl Recorder {
    /// Starts the thread. `told` hears there how each write went.
    ///
    /// # Panics
    /// If the system has no thread left.
    #[must_use]
    pub fn start(causes: Causes, told: impl FnMut(io::Result<()>) + Send + 'static) -> Self {
        let causes = Arc::new(causes);
        let (orders, waiting) = sync_channel(WAITING_MAX);
        let log = causes.clone();
        let thread = std::thread::Builder::new().name("causes".to_owned());
        thread
            .spawn(move || write(&log, &waiting, told))
            .expect("a thread for the flight recorder");
        Self { causes, orders }
    }

    /// The log.
    #[must_use]
    pub fn causes(&self) -> &Causes {
        &self.causes
    }

    /// Has an event written; does not wait for it.
    ///
    /// # Errors
    /// If so many wait already that it is not kept.
    pub fn keep(&self, event: Event) -> io::Result<()> {
        let full = |_| io::Error::other(format!("{WAITING_MAX} events wait for the disk"));
        self.orders.try_send(Order::Keep(event)).map_err(full)
    }

    /// Waits until all events so far are on the disk, or refused by it; `false` if that takes longer.
    #[must_use]
    pub fn settle(&self, limit: Duration) -> bool {
        let (done, settled) = sync_channel(1);
        self.orders.try_send(Order::Settle(done)).is_ok() && settled.recv_timeout(limit).is_ok()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.settle(END_LIMIT) {
            tracing::warn!("the last events are not kept: the disk does not answer");
        }
    }
}

fn write(log: &Causes, waiting: &Receiver<Order>, mut told: impl FnMut(io::Result<()>)) {
    for order in waiting {
        match order {
            Order::Keep(event) => told(log.append(&event)),
            // Nobody may wait any more.
            Order::Settle(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn event(n: u64) -> Event {
        Event { at_ms: n, code: "test".into(), text: format!("event {n}") }
    }

    #[test]
    fn what_was_told_is_on_the_disk_once_settled_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causes.jsonl");
        let causes = || Causes::new(path.clone(), &dir.path().join("link"));
        let recorder = Recorder::start(causes(), |result| result.expect("there is room"));
        (0..50).for_each(|n| recorder.keep(event(n)).unwrap());
        assert!(recorder.settle(Duration::from_secs(20)));
        assert_eq!(causes().last(99), (0..50).map(event).collect::<Vec<_>>());
        recorder.keep(event(50)).unwrap();
        drop(recorder);
        assert_eq!(causes().last(1), [event(50)], "an end does not lose the last one");
    }

    #[test]
    fn a_disk_that_stands_still_makes_nobody_wait_and_what_is_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causes.jsonl");
        // The thread stands still in the middle of its first event, as a disk would have it.
        let (go_on, halt) = sync_channel::<()>(0);
        let causes = Causes::new(path, &dir.path().join("link"));
        let recorder = Recorder::start(causes, move |_| {
            let _ = halt.recv();
        });
        let start = Instant::now();
        let kept = (0..2000).filter(|n| recorder.keep(event(*n)).is_ok()).count();
        assert!((WAITING_MAX..=WAITING_MAX + 1).contains(&kept), "{kept}");
        assert!(!recorder.settle(Duration::from_millis(50)));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        drop(go_on);
    }
}
