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

/// A VM's page, and what it has promised to everybody who wrote to it.
#[derive(Debug, Clone)]
pub struct Page {
    /// Loopback port that leads to it.
    pub port: u16,
    promised: Arc<Mutex<Vec<Ack>>>,
}

impl Page {
    /// A page nobody has written to yet.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self { port, promised: Arc::default() }
    }
}

/// A running writer.
pub struct Writer {
    page: Page,
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What the check at the end found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Acknowledged entries.
    pub acked: usize,
    /// Entries that are not on the page: those, and what earlier writers were promised. A copy that
    /// fell behind shows late, when the VM runs on it.
    pub lost: usize,
    /// When the first and the last of those were acknowledged, in seconds since the run's start.
    pub lost_between_s: Option<(f64, f64)>,
    /// Lines of the page that no writer ever sent.
    pub torn: usize,
}

impl Writer {
    /// Starts to write to a page.
    #[must_use]
    pub fn start(page: &Page, timeline: &Timeline) -> Self {
        let mut writer = Self::start_every(page, timeline, PAUSE);
        writer.add(timeline, PATIENT_PAUSE, PATIENT_LIMIT);
        writer
    }

    /// Starts to write with a pause of one's own between two entries.
    #[must_use]
    pub fn start_every(page: &Page, timeline: &Timeline, pause: Duration) -> Self {
        let (page, ledger) = (page.clone(), Arc::default());
        let mut writer = Self { page, ledger, stop: Arc::default(), threads: Vec::new() };
        writer.add(timeline, pause, POST_LIMIT);
        writer
    }

    fn add(&mut self, timeline: &Timeline, pause: Duration, limit: Duration) {
        let (port, book, flag) = (self.page.port, Arc::clone(&self.ledger), Arc::clone(&self.stop));
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

    /// Stops writing and compares the page with all that it ever promised.
    pub fn finish(mut self) -> anyhow::Result<Verdict> {
        self.stop();
        let acked = lock(&self.ledger).acks.clone();
        let found = http::get(self.page.port, "/log", Duration::from_secs(30))?;
        if found.status != 200 {
            bail!("GET /log answered {}", found.status);
        }
        let mut promised = self.page.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = compare(&acked, &promised, &found.body);
        promised.extend(acked);
        // What is lost is told once.
        let there = entries(&found.body);
        promised.retain(|ack| there.contains(&ack.entry));
        Ok(verdict)
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

fn entries(page: &str) -> HashSet<u64> {
    page.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn compare(acked: &[Ack], earlier: &[Ack], page: &str) -> Verdict {
    let there = entries(page);
    let missing = earlier.iter().chain(acked).filter(|ack| !there.contains(&ack.entry));
    let lost: Vec<f64> = missing.map(|ack| ack.at_s).collect();
    let whole = |line: &&str| line.trim().parse::<u64>().is_ok_and(|n| n % FIRST != 0 && n > FIRST);
    let torn = page.lines().filter(|line| !whole(line)).count();
    let (first, last) =
        (lost.iter().copied().reduce(f64::min), lost.iter().copied().reduce(f64::max));
    Verdict { acked: acked.len(), lost: lost.len(), lost_between_s: first.zip(last), torn }
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
    use super::{Ack, Verdict, compare};

    fn acks(entries: &[u64]) -> Vec<Ack> {
        entries
            .iter()
            .zip(1_u8..)
            .map(|(entry, at)| Ack { at_s: at.into(), entry: *entry })
            .collect()
    }

    #[test]
    fn an_acknowledged_entry_that_is_not_there_is_lost_and_it_is_known_when_it_was_acknowledged() {
        let acked = acks(&[1_000_001, 1_000_002, 1_000_003]);
        let verdict = |lost, lost_between_s| Verdict { acked: 3, lost, lost_between_s, torn: 0 };
        let page = "1000001\n1000003\n1000004\n";
        assert_eq!(compare(&acked, &[], page), verdict(1, Some((2.0, 2.0))));
        assert_eq!(compare(&acked, &[], ""), verdict(3, Some((1.0, 3.0))));
        assert_eq!(compare(&acked, &[], "1000003\n1000002\n1000001\n"), verdict(0, None));
    }

    #[test]
    fn what_an_earlier_writer_was_promised_must_be_there_too() {
        let (earlier, acked) = (acks(&[1_000_001, 1_000_002]), acks(&[2_000_001]));
        let verdict = compare(&acked, &earlier, "1000001\n2000001\n");
        assert_eq!((verdict.acked, verdict.lost), (1, 1));
        assert_eq!(verdict.lost_between_s, Some((2.0, 2.0)));
    }

    #[test]
    fn a_torn_line_is_not_the_entry_and_is_counted() {
        let acked = acks(&[1_000_001, 1_000_002, 2_000_003]);
        let verdict = |lost, lost_between_s, torn| Verdict { acked: 3, lost, lost_between_s, torn };
        assert_eq!(
            compare(&acked, &[], "1000001\n1000002\n20000"),
            verdict(1, Some((3.0, 3.0)), 1)
        );
        let page = "1000001\n1000002\n2000003\n\0\0\n2000000\n";
        assert_eq!(compare(&acked, &[], page), verdict(0, None, 2));
    }
}
