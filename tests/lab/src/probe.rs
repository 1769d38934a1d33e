// SPDX-License-Identifier: Apache-2.0
//! Whether a guest runs, asked twenty times a second on its LAN by ARP probes (RFC 5227).
//!
//! A customer's TCP waits ever longer after a lost packet, so a pause of 1.5 s looks to it like one
//! of 3 s. The guest's kernel answers a probe as soon as its processor runs and it is on the LAN.

use crate::net::{Mac, machine_socket, switch_socket};
use crate::timeline::Timeline;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The port of the LAN's switch at which this module stands.
pub const PORT: &str = "probe";
const MAC: Mac = [0x52, 0x54, 0x00, 0x46, 0x43, 0xff];
const EVERY: Duration = Duration::from_millis(50);
const FRAME_BYTES_MAX: usize = 2048;
/// Ethernet header and ARP for IPv4.
const ARP_BYTES: usize = 42;

/// Asks until it is dropped.
pub struct Prober {
    answers: Arc<Mutex<Vec<f64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts to ask for a guest. `dir` holds the sockets of the switch.
    pub fn start(dir: &Path, guest: Ipv4Addr, timeline: &Timeline) -> std::io::Result<Self> {
        let own = machine_socket(dir, "lan", PORT);
        std::fs::remove_file(&own).ok();
        let socket = UnixDatagram::bind(&own)?;
        socket.connect(switch_socket(dir, "lan", PORT))?;
        socket.set_read_timeout(Some(EVERY / 5))?;
        let (answers, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (book, flag, timeline) = (Arc::clone(&answers), Arc::clone(&stop), timeline.clone());
        let thread = std::thread::spawn(move || ask(&socket, guest, &timeline, &book, &flag));
        Ok(Self { answers, stop, thread: Some(thread) })
    }

    /// The longest time between two answers since `from_s`, in seconds; none if there were not two.
    #[must_use]
    pub fn longest_gap_s(&self, from_s: f64) -> Option<f64> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let since: Vec<f64> = answers.iter().copied().filter(|at_s| *at_s >= from_s).collect();
        since.windows(2).map(|pair| pair[1] - pair[0]).reduce(f64::max)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn ask(
    socket: &UnixDatagram,
    guest: Ipv4Addr,
    timeline: &Timeline,
    answers: &Mutex<Vec<f64>>,
    stop: &AtomicBool,
) {
    let question = question(guest);
    let mut buffer = [0; FRAME_BYTES_MAX];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= next {
            // A switch that has no room is as one that is cut.
            let _ = socket.send(&question);
            next = Instant::now() + EVERY;
        }
        if let Ok(length) = socket.recv(&mut buffer)
            && is_answer(&buffer[..length], guest)
        {
            let at_s = timeline.now_s();
            answers.lock().unwrap_or_else(PoisonError::into_inner).push(at_s);
        }
    }
}

/// Who has this address? Asked by nobody, so that no table learns anything.
fn question(guest: Ipv4Addr) -> [u8; ARP_BYTES] {
    let mut frame = [0; ARP_BYTES];
    frame[0..6].fill(0xff);
    frame[6..12].copy_from_slice(&MAC);
    // ARP; Ethernet, IPv4, their lengths, request.
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&MAC);
    frame[38..42].copy_from_slice(&guest.octets());
    frame
}

fn is_answer(frame: &[u8], guest: Ipv4Addr) -> bool {
    frame.len() >= ARP_BYTES
        && frame[0..6] == MAC
        && frame[12..14] == [0x08, 0x06]
        && frame[20..22] == [0, 2]
        && frame[28..32] == guest.octets()
}

#[cfg(test)]
mod tests {
    use super::{MAC, PORT, Prober, is_answer, question};
    use crate::net::{Switch, machine_socket, switch_socket};
    use crate::timeline::Timeline;
    use crate::wait::wait_for;
    use std::net::Ipv4Addr;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

    fn answer(question: &[u8], guest: Ipv4Addr) -> Vec<u8> {
        let mut frame = question.to_vec();
        frame[0..6].copy_from_slice(&MAC);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[21] = 2;
        frame[28..32].copy_from_slice(&guest.octets());
        frame
    }

    #[test]
    fn only_the_guest_s_own_answer_counts() {
        let question = question(GUEST);
        assert!(!is_answer(&question, GUEST));
        assert!(is_answer(&answer(&question, GUEST), GUEST));
        assert!(!is_answer(&answer(&question, Ipv4Addr::new(10, 0, 2, 101)), GUEST));
        assert!(!is_answer(&answer(&question, GUEST)[..41], GUEST));
    }

    #[test]
    fn a_guest_that_is_silent_for_a_while_leaves_a_gap() {
        let dir = crate::rundir::temp_dir("probe").unwrap();
        let _lan = Switch::start(dir.path(), "lan", &["a", PORT]).unwrap();
        let guest = UnixDatagram::bind(machine_socket(dir.path(), "lan", "a")).unwrap();
        guest.connect(switch_socket(dir.path(), "lan", "a")).unwrap();
        let timeline = Timeline::start(Box::new(|_| ()));
        let prober = Prober::start(dir.path(), GUEST, &timeline).unwrap();
        let serve = |answers: usize| {
            let mut buffer = [0; 100];
            for _ in 0..answers {
                let length = guest.recv(&mut buffer).unwrap();
                guest.send(&answer(&buffer[..length], GUEST)).unwrap();
            }
        };
        serve(5);
        std::thread::sleep(Duration::from_millis(600));
        // What was asked meanwhile is answered late, as by a guest that stood still.
        serve(15);
        let gap_s = wait_for("a gap", Duration::from_secs(10), || {
            Ok(prober.longest_gap_s(0.0).filter(|gap_s| *gap_s >= 0.5))
        });
        assert!(gap_s.unwrap() < 5.0);
    }
}
