// SPDX-License-Identifier: Apache-2.0
//! A customer that never stops: posts entries to the example VM's page and keeps what was
//! acknowledged, so that not one of them may be missing later.

use crate::http;
use crate::timeline::Timeline;
use anyhow::bail;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for one acknowledgement.
const POST_LIMIT: Duration = Duration::from_secs(3);
/// Between two entries, and between two tries.
const PAUSE: Duration = Duration::from_millis(40);

/// An acknowledged entry.
#[derive(Debug, Clone)]
pub struct Ack {
    /// When the acknowledgement came, in seconds since the run's start.
    pub at_s: f64,
    /// What was written.
    pub entry: String,
}

#[derive(Debug, Default)]
struct Ledger {
    acks: Vec<Ack>,
    tries_failed: u64,
}

/// A running writer.
pub struct Writer {
    port: u16,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the check at the end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged entries.
    pub acked: usize,
    /// Those of them that are not on the page.
    pub lost: usize,
}

impl Writer {
    /// Starts to write to the page behind a loopback port. `name` tells writers of one VM apart.
    #[must_use]
    pub fn start(port: u16, name: &str, timeline: &Timeline) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (book, flag) = (Arc::clone(&ledger), Arc::clone(&stop));
        let (name, timeline) = (name.to_owned(), timeline.clone());
        let thread = std::thread::spawn(move || write(port, &name, &timeline, &book, &flag));
        Self { port, ledger, stop, thread: Some(thread) }
    }

    /// Acknowledged entries so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        lock(&self.ledger).acks.len()
    }

    /// The time of the first acknowledgement of an entry sent after `at_s`, if there is one.
    #[must_use]
    pub fn first_ack_after(&self, at_s: f64) -> Option<f64> {
        lock(&self.ledger).acks.iter().map(|ack| ack.at_s).find(|ack_s| *ack_s > at_s)
    }

    /// The longest time without an acknowledgement since `from_s`: the outage as a customer sees it.
    #[must_use]
    pub fn longest_gap_s(&self, from_s: f64) -> f64 {
        let ledger = lock(&self.ledger);
        let times: Vec<f64> =
            ledger.acks.iter().map(|ack| ack.at_s).filter(|at_s| *at_s >= from_s).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    /// Stops writing and compares the page with what was acknowledged.
    pub fn finish(mut self) -> anyhow::Result<Verdict> {
        self.stop();
        self.verdict()
    }

    /// Compares the page with what was acknowledged so far.
    pub fn verdict(&self) -> anyhow::Result<Verdict> {
        // Taken before the page is read: later acknowledgements are no loss.
        let acked: Vec<String> =
            lock(&self.ledger).acks.iter().map(|ack| ack.entry.clone()).collect();
        let page = http::get(self.port, "/entries", Duration::from_secs(30))?;
        if page.status != 200 {
            bail!("GET /entries answered {}", page.status);
        }
        Ok(compare(&acked, &page.body))
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn compare(acked: &[String], page: &str) -> Verdict {
    let there: HashSet<&str> = page.lines().map(str::trim).collect();
    let lost = acked.iter().filter(|entry| !there.contains(entry.as_str())).count();
    Verdict { acked: acked.len(), lost }
}

fn write(port: u16, name: &str, timeline: &Timeline, ledger: &Mutex<Ledger>, stop: &AtomicBool) {
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        // A try that fails may still have been written: the next one carries a new name, so that
        // an entry counts as acknowledged only if the answer to that very entry came.
        number += 1;
        let entry = format!("{name}-{number:06}");
        let sent_s = timeline.now_s();
        match http::post(port, "/entries", &entry, POST_LIMIT) {
            Ok(answer) if answer.status == 200 => {
                let at_s = timeline.now_s().max(sent_s);
                lock(ledger).acks.push(Ack { at_s, entry });
            }
            _ => lock(ledger).tries_failed += 1,
        }
        std::thread::sleep(PAUSE);
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{Verdict, compare};

    #[test]
    fn an_acknowledged_entry_that_is_not_there_is_lost() {
        let acked = ["w-1", "w-2", "w-3"].map(str::to_owned);
        assert_eq!(compare(&acked, "w-1\nw-3\nw-4\n"), Verdict { acked: 3, lost: 1 });
        assert_eq!(compare(&acked, ""), Verdict { acked: 3, lost: 3 });
        // A torn last line is not the entry.
        assert_eq!(compare(&acked, "w-1\nw-2\nw-"), Verdict { acked: 3, lost: 1 });
    }
}
