// SPDX-License-Identifier: Apache-2.0
//! A customer that never stops: writes numbers to the example VM's page and keeps which were
//! acknowledged, so that not one of them may be missing later.
//!
//! With each number the VM stamps a block of each of its disks anew, past every cache. Later each block must hold
//! a stamp at least as new as its last acknowledged one.

use crate::http;
use crate::timeline::Timeline;
use anyhow::bail;
use std::collections::{BTreeMap, HashSet};
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
/// Stamped blocks of each disk; stamp N is in block N modulo this.
const BLOCKS: u64 = 32;
/// Disks with such blocks.
const DISKS: [&str; 2] = ["system", "data"];
/// Between two entries, and between two tries.
const PAUSE: Duration = Duration::from_millis(40);

/// An acknowledged entry.
#[derive(Debug, Clone)]
pub struct Ack {
    /// When the acknowledgement came, in seconds since the run's start.
    pub at_s: f64,
    /// What was written.
    pub entry: u64,
    /// The number of the stamp that each disk got with it.
    pub stamp: u64,
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
    promised: Arc<Mutex<Promised>>,
}

#[derive(Debug, Default)]
struct Promised {
    entries: Vec<Ack>,
    /// The newest acknowledged stamp of each block, and when it was acknowledged.
    blocks: BTreeMap<u64, (u64, f64)>,
}

impl Promised {
    fn stamped(&mut self, acks: &[Ack]) {
        for ack in acks {
            let newest = self.blocks.entry(ack.stamp % BLOCKS).or_insert((ack.stamp, ack.at_s));
            if newest.0 < ack.stamp {
                *newest = (ack.stamp, ack.at_s);
            }
        }
    }
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
    /// fell behind shows late, when the VM runs on it. And blocks whose stamp is older than acknowledged.
    pub lost: usize,
    /// When the first and the last of those were acknowledged, in seconds since the run's start.
    pub lost_between_s: Option<(f64, f64)>,
    /// Lines of the page that no writer ever sent, and blocks that hold no stamp of theirs.
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

    /// The longest time without an acknowledgement between two moments: all of it if there was none.
    #[must_use]
    pub fn longest_wait_s(&self, from_s: f64, to_s: f64) -> f64 {
        let ledger = lock(&self.ledger);
        let inside = |at_s: &f64| (from_s..to_s).contains(at_s);
        let acked = ledger.acks.iter().map(|ack| ack.at_s).filter(inside);
        let times: Vec<f64> = std::iter::once(from_s).chain(acked).chain([to_s]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
    }

    /// Stops writing and compares the page, and the blocks of its VM's disks, with all that was ever promised.
    pub fn finish(mut self) -> anyhow::Result<Verdict> {
        self.stop();
        let acked = lock(&self.ledger).acks.clone();
        let page = self.ask("/log")?;
        let stamps = self.ask("/stamps")?;
        let mut promised = self.page.promised.lock().unwrap_or_else(PoisonError::into_inner);
        promised.stamped(&acked);
        let blocks = compare_blocks(&promised.blocks, &stamps);
        let verdict = blocks.with(compare(&acked, &promised.entries, &page));
        promised.entries.extend(acked);
        // What is lost is told once.
        let there = entries(&page);
        promised.entries.retain(|ack| there.contains(&ack.entry));
        promised.blocks.retain(|block, _| !blocks.stale.contains_key(block));
        Ok(verdict)
    }

    fn ask(&self, path: &str) -> anyhow::Result<String> {
        let found = http::get(self.page.port, path, Duration::from_secs(30))?;
        if found.status != 200 {
            bail!("GET {path} answered {}", found.status);
        }
        Ok(found.body)
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

/// What became of the stamped blocks.
#[derive(Debug, Default, PartialEq)]
struct Blocks {
    /// Blocks older than acknowledged, on either disk, and when that was.
    stale: BTreeMap<u64, f64>,
    /// How many hold something else than a stamp of theirs, or are not there at all.
    torn: usize,
}

impl Blocks {
    fn with(&self, mut verdict: Verdict) -> Verdict {
        verdict.lost += self.stale.len();
        verdict.torn += self.torn;
        for at_s in self.stale.values() {
            let (first, last) = verdict.lost_between_s.unwrap_or((*at_s, *at_s));
            verdict.lost_between_s = Some((first.min(*at_s), last.max(*at_s)));
        }
        verdict
    }
}

/// `found`: lines of disk, block, and its stamp or `blank` or `torn`.
fn compare_blocks(acked: &BTreeMap<u64, (u64, f64)>, found: &str) -> Blocks {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = found.lines().map(words).collect();
    let mut blocks = Blocks::default();
    for disk in DISKS {
        for block in 0..BLOCKS {
            let number = block.to_string();
            let line =
                lines.iter().find(|line| line.len() == 3 && line[0] == disk && line[1] == number);
            let stamp = match line.map(|line| line[2].as_str()) {
                Some("blank") => 0,
                Some(word) => {
                    word.parse().ok().filter(|n: &u64| n % BLOCKS == block).unwrap_or(u64::MAX)
                }
                None => u64::MAX,
            };
            if stamp == u64::MAX {
                blocks.torn += 1;
            } else if let Some((newest, at_s)) = acked.get(&block)
                && stamp < *newest
            {
                blocks.stale.insert(block, *at_s);
            }
        }
    }
    blocks
}

/// The number of the stamp in the page's answer to an entry.
fn stamp_of(answer: &str, entry: u64) -> Option<u64> {
    let (first, second) = answer.trim().split_once(' ')?;
    second.parse().ok().filter(|_| first.parse() == Ok(entry))
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
            Ok(answer) if answer.status == 200 && stamp_of(&answer.body, entry).is_some() => {
                let stamp = stamp_of(&answer.body, entry).unwrap_or_default();
                lock(ledger).acks.push(Ack { at_s: timeline.now_s(), entry, stamp });
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
    use super::{Ack, BLOCKS, Promised, Verdict, compare, compare_blocks, stamp_of};

    fn acks(entries: &[u64]) -> Vec<Ack> {
        entries
            .iter()
            .zip(1_u8..)
            .map(|(entry, at)| Ack { at_s: at.into(), entry: *entry, stamp: u64::from(at) + 30 })
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

    /// What the page tells of both disks after stamps 1 to `last`.
    fn stamped(last: u64) -> String {
        let newest = |block| (0..=last).rev().find(|stamp| stamp % BLOCKS == block).unwrap_or(0);
        let line = |disk, block| match newest(block) {
            0 => format!("{disk} {block} blank\n"),
            stamp => format!("{disk} {block} {stamp}\n"),
        };
        ["system", "data"]
            .map(|disk| (0..BLOCKS).map(|b| line(disk, b)).collect::<String>())
            .concat()
    }

    #[test]
    fn a_block_older_than_acknowledged_is_lost_and_a_newer_one_is_not() {
        let mut promised = Promised::default();
        // Stamps 31, 32, 33: blocks 31, 0, 1.
        promised.stamped(&acks(&[1, 2, 3]));
        assert_eq!(compare_blocks(&promised.blocks, &stamped(33)).stale.len(), 0);
        assert_eq!(compare_blocks(&promised.blocks, &stamped(90)).stale.len(), 0);
        let old = compare_blocks(&promised.blocks, &stamped(31));
        assert_eq!(old.stale.into_iter().collect::<Vec<_>>(), [(0, 2.0), (1, 3.0)]);
        let one_disk = stamped(33).replacen("system 1 33", "system 1 1", 1);
        let found = compare_blocks(&promised.blocks, &one_disk);
        let verdict = found.with(Verdict { acked: 3, lost: 1, lost_between_s: None, torn: 0 });
        assert_eq!((verdict.lost, verdict.lost_between_s), (2, Some((3.0, 3.0))));
    }

    #[test]
    fn a_torn_misplaced_or_missing_block_counts_as_torn() {
        let promised = Promised::default().blocks;
        assert_eq!(compare_blocks(&promised, &stamped(40)).torn, 0);
        assert_eq!(compare_blocks(&promised, "").torn, 64);
        for bad in ["data 5 torn", "data 5 6", "data 5", "date 5 37", "data 5 -1"] {
            let text = stamped(40).replacen("data 5 37", bad, 1);
            assert_eq!(compare_blocks(&promised, &text).torn, 1, "{bad}");
        }
    }

    #[test]
    fn an_answer_counts_only_for_its_own_entry() {
        assert_eq!(stamp_of("1000001 77\n", 1_000_001), Some(77));
        for bad in ["1000001\n", "1000002 77\n", "", "1000001 x"] {
            assert_eq!(stamp_of(bad, 1_000_001), None, "{bad}");
        }
    }
}
