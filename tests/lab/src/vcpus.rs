// SPDX-License-Identifier: Apache-2.0
//! Watches from inside both servers whether the VM's vCPUs run: by the processor time that QEMU's vCPU
//! threads use up. A prepared, paused or stopped QEMU uses none.

use crate::channel::Channel;
use crate::site::{Site, VM};
use crate::timeline::Timeline;
use anyhow::ensure;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// A server that does not answer by then is not seen in this look.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Clock ticks (10 ms) in a look that count as running: a QEMU being loaded uses one or two.
const TICKS_MIN: u64 = 5;

/// What one look found on a server: QEMU's process, and the ticks its vCPU threads have used.
type Look = Option<(u32, u64)>;

/// A running watch; it ends when dropped.
pub struct Vcpus {
    looks: Arc<Mutex<Vec<[Look; 2]>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpus {
    /// Watches both servers of a site.
    pub fn watch(site: &Site) -> anyhow::Result<Self> {
        let channels = [site.a.channel()?, site.b.channel()?];
        let (looks, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (list, flag) = (Arc::clone(&looks), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let pair = [look(&channels[0]), look(&channels[1])];
                list.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Self { looks, stop, thread: Some(thread) })
    }

    /// Ends the watch; fails if the VM's vCPUs ran on both servers at once, or were never seen to run.
    pub fn ran_once(mut self, timeline: &Timeline) -> anyhow::Result<()> {
        self.end();
        let seen = judge(&self.looks.lock().unwrap_or_else(PoisonError::into_inner));
        let [on_a, on_b] = seen.ran;
        timeline.note(VM, format!("seen to run: {on_a} times on A, {on_b} on B"));
        ensure!(on_a + on_b > 0, "the watch saw nothing");
        ensure!(!seen.twice, "the VM's processors ran on both servers at once");
        Ok(())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a watch saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// In how many spans between two looks it ran on A, and on B.
    ran: [usize; 2],
    /// Whether it ran on both in two spans in a row: in one it may have moved.
    twice: bool,
}

fn look(channel: &Channel) -> Look {
    let script = format!(
        "p=$(systemctl show -P MainPID forecourt-vm-{VM}.service); n=0; for t in /proc/$p/task/*; do \
         case $(cat $t/comm) in CPU*) set -- $(sed 's/.*) //' $t/stat); n=$((n+$12+$13));; esac; \
         done; echo $p $n"
    );
    // In a shell, the twelfth argument is written with braces.
    let script = script.replace("$12", "${12}").replace("$13", "${13}");
    let text = channel.exec(&script, LOOK_LIMIT).ok()?.ok().ok()?;
    parse(&text)
}

fn parse(text: &str) -> Look {
    let mut words = text.lines().last()?.split_whitespace();
    let (process, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (process != 0).then_some((process, ticks))
}

fn judge(looks: &[[Look; 2]]) -> Seen {
    let mut seen = Seen { ran: [0, 0], twice: false };
    let mut both_before = false;
    for span in looks.windows(2) {
        let ran = [0, 1].map(|at| match (span[0][at], span[1][at]) {
            (Some((old, before)), Some((new, after))) => {
                old == new && after.saturating_sub(before) >= TICKS_MIN
            }
            _ => false,
        });
        for (count, ran) in seen.ran.iter_mut().zip(ran) {
            *count += usize::from(ran);
        }
        let both = ran[0] && ran[1];
        seen.twice |= both && both_before;
        both_before = both;
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::{Look, Seen, judge, parse};

    #[test]
    fn a_vm_that_runs_on_both_is_seen_and_a_move_is_none() {
        let on = |a: u64, b: u64| -> [Look; 2] { [Some((7, a)), Some((9, b))] };
        let moved = [on(0, 0), on(50, 0), on(80, 40), on(80, 90)];
        assert_eq!(judge(&moved), Seen { ran: [2, 2], twice: false });
        let twice = [on(0, 0), on(50, 40), on(90, 80)];
        assert!(judge(&twice).twice);
        let loaded = [on(0, 0), on(50, 2), on(90, 4)];
        assert_eq!(judge(&loaded), Seen { ran: [2, 0], twice: false });
    }

    #[test]
    fn another_process_or_none_begins_anew() {
        let restarted = [[Some((7, 500)), None], [Some((8, 900)), None], [None, None]];
        assert_eq!(judge(&restarted).ran, [0, 0]);
        assert_eq!(parse("0 0\n"), None);
        assert_eq!(parse("noise\n412 77\n"), Some((412, 77)));
        assert_eq!(parse("sh: bad\n"), None);
    }
}
