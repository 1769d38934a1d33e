// SPDX-License-Identifier: Apache-2.0
//! The console on a real pseudo-terminal: what a person's keys, and a hostile paste, do to it.

mod common;

use common::{NOW_MS, but, machine, well};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_forecourt-console");
const PATIENCE: Duration = Duration::from_secs(20);

/// A console on a pseudo-terminal of its own, stopped when dropped.
struct Console {
    child: Child,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    screen: Grid,
    dir: tempfile::TempDir,
}

impl Console {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), &well());
        fs::write(dir.path().join("machine.json"), serde_json::to_vec(&machine()).unwrap())
            .unwrap();
        fs::write(dir.path().join("os-release"), "IMAGE_VERSION=0.1.0\n").unwrap();
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        // A session of its own whose controlling terminal this is, as systemd gives it.
        let child = Command::new("setsid")
            .args(["--ctty", BINARY, "--state-dir"])
            .arg(dir.path())
            .env("TERM", "vt220")
            .stdin(Stdio::from(slave()))
            .stdout(Stdio::from(slave()))
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let keyboard = File::from(master);
        let mut output = keyboard.try_clone().unwrap();
        let (sender, received) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, output: received, screen: Grid::default(), dir }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits until a text is on the screen.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.screen.text().contains(text) {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.take(&bytes),
                Err(_) => panic!("no {text:?} on the screen, but:\n{}", self.screen.text()),
            }
        }
    }

    /// Bytes sent to the screen during a time.
    fn sent_during(&mut self, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut count = 0;
        loop {
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(bytes) => {
                    count += bytes.len();
                    self.screen.take(&bytes);
                }
                Err(_) => return count,
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As much of a VT100 as the console uses: it moves, clears and prints.
#[derive(Default)]
struct Grid {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    sequence: Option<String>,
}

impl Grid {
    fn take(&mut self, bytes: &[u8]) {
        for c in bytes.iter().map(|byte| char::from(*byte)) {
            match self.sequence.take() {
                None if c == '\u{1b}' => self.sequence = Some(String::new()),
                None => self.print(c),
                Some(so_far) if so_far.is_empty() => {
                    assert_eq!(c, '[', "a sequence no VT100 knows");
                    self.sequence = Some("[".into());
                }
                Some(so_far) if c.is_ascii_alphabetic() => self.obey(&so_far[1..], c),
                Some(so_far) => self.sequence = Some(format!("{so_far}{c}")),
            }
        }
    }

    fn obey(&mut self, parameters: &str, last: char) {
        match last {
            'H' => {
                let (row, column) = parameters.split_once(';').expect("a row and a column");
                self.at = (row.parse().unwrap(), column.parse().unwrap());
            }
            'J' => self.cells.clear(),
            'm' | 'l' | 'h' => (),
            other => panic!("a sequence this test does not know: {parameters}{other}"),
        }
    }

    fn print(&mut self, c: char) {
        assert!((' '..='~').contains(&c), "{c:?} was sent to a VT100");
        let (row, column) = self.at;
        assert!((1..=24).contains(&row) && (1..=80).contains(&column), "{row};{column}");
        self.cells.resize(24, Vec::new());
        let line = &mut self.cells[row - 1];
        line.resize(line.len().max(column), ' ');
        line[column - 1] = c;
        self.at.1 += 1;
    }

    fn text(&self) -> String {
        let lines = self.cells.iter().map(|line| line.iter().collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn put(dir: &Path, status: &provisioning_protocol::status::LocalStatus) {
    fs::write(dir.join("new"), serde_json::to_vec(status).unwrap()).unwrap();
    fs::rename(dir.join("new"), dir.join("status.json")).unwrap();
}

#[test]
fn a_pseudo_terminal_without_a_size_shows_24_rows_of_80() {
    let mut console = Console::start();
    console.expect("r Redraw");
    assert!(console.screen.cells[23].iter().collect::<String>().contains("r Redraw"));
    assert!(console.screen.cells.iter().all(|line| line.len() <= 80));
}

#[test]
fn the_keys_that_end_other_programs_do_not_end_this_one() {
    let mut console = Console::start();
    console.expect("r Redraw");
    console.press(b"\x03\x1a\x1c\x04\x13\x11");
    console.press(b"2");
    console.expect("newest first");
    assert!(console.child.try_wait().unwrap().is_none(), "the console has ended");
}

#[test]
fn a_paste_of_a_megabyte_with_escape_sequences_leaves_it_usable() {
    let mut console = Console::start();
    console.expect("r Redraw");
    let mut keyboard = console.keyboard.try_clone().unwrap();
    let paste = thread::spawn(move || {
        let noise = b"\x1b[31m\x1b]0;x\x07\x1b[200~abcdef\xff\xfe\x00\x1b[999999999999A";
        let mut left: usize = 1 << 20;
        while left > 0 {
            keyboard.write_all(noise).unwrap();
            left = left.saturating_sub(noise.len());
        }
    });
    paste.join().unwrap();
    console.press(b"\x1b\x1b\x1b");
    // An escape alone is told from the start of a sequence by the pause after it.
    thread::sleep(Duration::from_millis(300));
    console.press(b"\x1b[A1");
    console.expect("Last events (UTC)");
    console.press(b"2");
    console.expect("newest first");
}

#[test]
fn what_does_not_change_is_not_sent_again() {
    let mut console = Console::start();
    console.expect("r Redraw");
    console.sent_during(Duration::from_millis(500));
    assert_eq!(console.sent_during(Duration::from_millis(2_500)), 0, "a quiet screen is not quiet");
    console.press(b"r");
    assert!(console.sent_during(Duration::from_millis(1_000)) > 1_000, "r must send it all");
}

#[test]
fn a_change_is_on_the_screen_within_two_seconds_and_costs_little() {
    let mut console = Console::start();
    console.expect("r Redraw");
    console.sent_during(Duration::from_millis(500));
    put(console.dir.path(), &but(|status| status.hq_contact_age_s = Some(42)));
    let start = Instant::now();
    let bytes = console.output.recv_timeout(PATIENCE).unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    assert!(bytes.len() < 400, "{} bytes for one changed word", bytes.len());
    put(console.dir.path(), &but(|status| status.written_boot_ms = NOW_MS - 90_000));
    console.expect("SILENT");
}

#[test]
fn a_reboot_outside_a_server_writes_the_reason_and_reboots_nothing() {
    let mut console = Console::start();
    console.expect("r Redraw");
    console.press(b"p");
    console.expect("Why?");
    console.press(b"new power supply\rREBOOT\r");
    console.expect("rebooted.");
    let log = fs::read_to_string(console.dir.path().join("console-actions.jsonl")).unwrap();
    let entry: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!(entry["reason"], "new power supply");
    assert_eq!(entry["action"], "reboot");
}

#[test]
fn one_frame_can_be_printed_and_hostile_files_do_not_change_that() {
    let dir = tempfile::tempdir().unwrap();
    let frame = |size: &str| {
        let output = Command::new(BINARY)
            .args(["--once", "--size", size, "--state-dir"])
            .arg(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(frame("80x24").contains("F01"), "an empty folder is a server that just started");
    put(dir.path(), &but(|status| status.hq_url = "\u{1b}[2Jhq\u{202e}".into()));
    let drawn = frame("80x24");
    assert!(drawn.contains("?[2Jhq?") && drawn.is_ascii(), "{drawn}");
    assert!(!drawn.contains('\u{1b}'));
    File::create(dir.path().join("status.json")).unwrap().set_len(1 << 30).unwrap();
    let start = Instant::now();
    assert!(frame("0x0").contains("status cannot be used"));
    assert!(start.elapsed() < Duration::from_secs(5));
}
