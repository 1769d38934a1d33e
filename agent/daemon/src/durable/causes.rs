// SPDX-License-Identifier: Apache-2.0
//! `causes.jsonl`, the flight recorder: one line a person can read for each takeover, eviction,
//! freeze and reset, kept across reboots, and a mark of what HQ has of it.

use super::file::{self, FileError, Mode};
use provisioning_protocol::report::Event;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// The file is turned over once it is this long; one older part is kept.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How much of the end is read back at a start: some thousand lines.
const TAIL_BYTES: u64 = 512 * 1024;
const MARK_BYTES_MAX: u64 = 16 * 1024;

/// The log of causes.
#[derive(Debug)]
pub struct Causes {
    path: PathBuf,
}

impl Causes {
    /// Opens the log and links it into the runtime folder.
    #[must_use]
    pub fn new(path: PathBuf, link: &Path) -> Self {
        drop(std::fs::remove_file(link));
        if let Err(error) = std::os::unix::fs::symlink(&path, link) {
            tracing::debug!(%error, "cause log not linked");
        }
        Self { path }
    }

    /// Appends one event and syncs it. After an error nothing of it is left.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() > BYTES_MAX) {
            std::fs::rename(&self.path, self.older())?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path)?;
        let length = file.metadata()?.len();
        let mut line = if is_torn(&mut file, length)? { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        written.inspect_err(|_| drop(file.set_len(length)))
    }

    /// The last events, newest last. Lines that cannot be read are passed over.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<Event> {
        let mut text = tail(&self.older());
        text.extend_from_slice(&tail(&self.path));
        let lines = text.split(|byte| *byte == b'\n').rev();
        let mut found: Vec<Event> =
            lines.filter_map(|line| serde_json::from_slice(line).ok()).take(count).collect();
        found.reverse();
        found
    }

    /// The last event HQ has, as far as this server knows.
    #[must_use]
    pub fn sent(&self) -> Option<Event> {
        file::read_json(&self.mark(), "mark of events sent", MARK_BYTES_MAX).ok().flatten()
    }

    /// HQ has everything up to this event. If the mark is lost, HQ is told again and knows it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn mark_sent(&self, event: &Event) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(event).expect("plain data becomes JSON");
        file::replace(&self.mark(), &bytes, Mode::Public, false)
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    fn mark(&self) -> PathBuf {
        self.path.with_extension("sent")
    }
}

/// Whether the file ends within a line, as after a power cut.
fn is_torn(file: &mut File, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// The end of a file, or nothing.
fn tail(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if let Err(error) = read
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "cause log not read");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event { at_ms: n, code: "test".into(), text: format!("event {n}") }
    }

    fn numbers(causes: &Causes, count: usize) -> Vec<u64> {
        causes.last(count).iter().map(|event| event.at_ms).collect()
    }

    #[test]
    fn a_line_torn_by_a_power_cut_costs_no_other_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causes.jsonl");
        let causes = Causes::new(path.clone(), &dir.path().join("link"));
        causes.append(&event(1)).unwrap();
        causes.append(&event(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in whole.len() / 2 + 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            causes.append(&event(3)).unwrap();
            let found = numbers(&causes, 9);
            // Only its line end may be missing: then it counts.
            let all = if cut == whole.len() - 1 { vec![1, 2, 3] } else { vec![1, 3] };
            assert_eq!(found, all, "cut at {cut}");
        }
    }

    #[test]
    fn the_file_is_bounded_and_its_last_lines_are_found_across_the_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("causes.jsonl");
        let causes = Causes::new(path.clone(), &dir.path().join("link"));
        (0..5).for_each(|n| causes.append(&event(n)).unwrap());
        let filler = vec![b'\n'; usize::try_from(BYTES_MAX).unwrap()];
        let mut text = filler;
        text.extend_from_slice(&std::fs::read(&path).unwrap());
        std::fs::write(&path, text).unwrap();
        causes.append(&event(5)).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 1000, "it was not turned over");
        assert_eq!(numbers(&causes, 4), [2, 3, 4, 5]);
    }

    #[test]
    fn the_mark_is_kept_and_a_broken_one_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let causes = Causes::new(dir.path().join("causes.jsonl"), &dir.path().join("link"));
        assert_eq!(causes.sent(), None);
        causes.mark_sent(&event(7)).unwrap();
        assert_eq!(causes.sent(), Some(event(7)));
        std::fs::write(dir.path().join("causes.sent"), b"{").unwrap();
        assert_eq!(causes.sent(), None);
    }
}
