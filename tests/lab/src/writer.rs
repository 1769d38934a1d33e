// SPDX-License-Identifier: Apache-2.0
//! A customer that never stops: writes numbers to the example VM's page and keeps which were
//! acknowledged, so that not one of them may be missing later.

use crate::http;
use crate::timeline::Timeline;
use anyhow::bail;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait for one acknowledgement: what is sent to a server that died is soon tried again.
const POST_LIMIT: Duration = Duration::from_secs(3);
/// The same for a second customer, who sees the end of a pause that outlasts the first's patience.
const PATIENT_LIMIT: Duration = Duration::from_secs(12);
/// Between two entries of that one.
const PATIENT_PAUSE: Duration = Duration::from_millis(300);
/// The first writer's numbers come after this one, the second's after twice this, and so on.
const FIRST: u64 = 1_000_000;
/// Between two entries, and between two tries.
const PAUSE: Duration = Duration::from_millis(40);

/// An acknowledged entry.
#[derive(Debug, Clone)]
pub struct Ack {
    /// When the acknowledgement came, in seconds since the run's start.
    pub at_s: f64,
    /// What was written.
    pub entry: u64,
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
    threads: Vec<JoinHandle<()>>,
}

/// What the check at the end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged entries.
    pub acked: usize,
    /// Those of them that are not on the page.
    pub lost: usize,
    /// Lines of the page that no writer ever sent.
    pub torn: usize,
}

impl Writer {
    /// Starts to write to the page behind a loopback port.
    #[must_use]
    pub fn start(port: u16, timeline: &Timeline) -> Self {
        let mut writer = Self::start_every(port, timeline, PAUSE);
        writer.add(timeline, PATIENT_PAUSE, PATIENT_LIMIT);
        writer
    }

    /// Starts to write with a pause of one's own between two entries.
    #[must_use]
    pub fn start_every(port: u16, timeline: &Timeline, pause: Duration) -> Self {
        let ledger = Arc::default();
        let mut writer = Self { port, ledger, stop: Arc::default(), threads: Vec::new() };
        writer.add(timeline, pause, POST_LIMIT);
        writer
    }

    fn add(&mut self, timeline: &Timeline, pause: Duration, limit: Duration) {
        let (port, book, flag) = (self.port, Arc::clone(&self.ledger), Arc::clone(&self.stop));
        let timeline = timeline.clone();
        let customer = move || write(port, &timeline, &book, &flag, pause, limit);
        self.threads.push(std::thread::spawn(customer));
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
        let acked: Vec<u64> = lock(&self.ledger).acks.iter().map(|ack| ack.entry).collect();
        let page = http::get(self.port, "/log", Duration::from_secs(30))?;
        if page.status != 200 {
            bail!("GET /log answered {}", page.status);
        }
        Ok(compare(&acked, &page.body))
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn compare(acked: &[u64], page: &str) -> Verdict {
    let there: HashSet<u64> = page.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let lost = acked.iter().filter(|entry| !there.contains(entry)).count();
    let whole = |line: &&str| line.trim().parse::<u64>().is_ok_and(|n| n % FIRST != 0 && n > FIRST);
    let torn = page.lines().filter(|line| !whole(line)).count();
    Verdict { acked: acked.len(), lost, torn }
}

fn write(
    port: u16,
    timeline: &Timeline,
    ledger: &Mutex<Ledger>,
    stop: &AtomicBool,
    pause: Duration,
    limit: Duration,
) {
    // Writers of one run never write the same number.
    static WRITERS: AtomicU64 = AtomicU64::new(1);
    let mut entry = WRITERS.fetch_add(1, Ordering::Relaxed) * FIRST;
    while !stop.load(Ordering::Relaxed) {
        // A try that fails may still have been written: the next one carries a new number, so that
        // an entry counts as acknowledged only if the answer to that very entry came.
        entry += 1;
        match http::post(port, &format!("/write?n={entry}"), "", limit) {
            Ok(answer) if answer.status == 200 => {
                lock(ledger).acks.push(Ack { at_s: timeline.now_s(), entry });
            }
            _ => lock(ledger).tries_failed += 1,
        }
        std::thread::sleep(pause);
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
        let acked = [1_000_001, 1_000_002, 1_000_003];
        let verdict = |lost, torn| Verdict { acked: 3, lost, torn };
        assert_eq!(compare(&acked, "1000001\n1000003\n1000004\n"), verdict(1, 0));
        assert_eq!(compare(&acked, ""), verdict(3, 0));
    }

    #[test]
    fn a_torn_line_is_not_the_entry_and_is_counted() {
        let acked = [1_000_001, 1_000_002, 2_000_003];
        let verdict = |lost, torn| Verdict { acked: 3, lost, torn };
        assert_eq!(compare(&acked, "1000001\n1000002\n20000"), verdict(1, 1));
        assert_eq!(compare(&acked, "1000001\n1000002\n2000003\n\0\0\n2000000\n"), verdict(0, 2));
    }
}
