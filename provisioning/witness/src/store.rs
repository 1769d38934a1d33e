// SPDX-License-Identifier: Apache-2.0
//! The record of one site, as a log that only grows: every state is a line with a checksum, on disk
//! before the answer that rests on it leaves. The last line that is whole counts.
//!
//! A line torn by a power loss was never answered, so it may be dropped; anything else that is
//! wrong with the log makes a new incarnation, which grants nothing before the pair has registered
//! again. When the log has grown long, it is replaced by one of a single line.

use crate::place::Place;
use provisioning_protocol::ids::SiteName;
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessState, WitnessSwap};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The log is rewritten beyond this many lines.
const LINES_MAX: u32 = 1_000;
/// Longer than any log that was rewritten in time.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
const LOG: &str = "witness.log";
const NEW_LOG: &str = "witness.log.new";

/// Why the record cannot be kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Reading or writing.
    #[error("Cannot {action} in {}", folder.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has the folder.
    #[error("Another witness works in {}", .0.display())]
    Taken(PathBuf),
    /// The folder is another site's.
    #[error("The folder holds the record of site {found}, not {wanted}")]
    OtherSite {
        /// Whose it is.
        found: SiteName,
        /// Whose it should be.
        wanted: SiteName,
    },
    /// An earlier write failed: what is on disk is not known.
    #[error("An earlier write failed; start the witness again")]
    Broken,
    /// No random numbers.
    #[error("The system gave no random bytes")]
    Random,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    site: SiteName,
    place: Place,
    state: WitnessState,
}

/// How the record was found at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// As it was left.
    Whole,
    /// As it was left, but for a last line that nobody was answered for.
    Torn,
    /// There was none.
    New,
    /// Damaged: a new incarnation.
    Damaged,
    /// A copy put back, or moved elsewhere: a new incarnation.
    Restored,
}

/// The record of a site.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    log: File,
    line: Line,
    lines: u32,
    broken: bool,
    found: Found,
    /// Holds the folder against a second process.
    _lock: File,
}

impl Store {
    /// Opens the record in a folder, or makes it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(folder: &Path, site: &SiteName) -> Result<Self, StoreError> {
        let io = |action| {
            let folder = folder.to_owned();
            move |source| StoreError::Io { action, folder, source }
        };
        std::fs::create_dir_all(folder).map_err(io("make the folder"))?;
        let lock = File::open(folder).map_err(io("open the folder"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::Taken(folder.to_owned()))?;
        let text = read(&folder.join(LOG)).map_err(io("read the log"))?;
        let (last, mut found) = replay(text.as_deref());
        if let Some(line) = last.as_ref().filter(|line| line.site != *site) {
            return Err(StoreError::OtherSite { found: line.site.clone(), wanted: site.clone() });
        }
        let here = Place::of(&folder.join(LOG)).ok();
        let same_place = last.as_ref().is_some_and(|line| Some(&line.place) == here.as_ref());
        let state = match last {
            Some(line) if same_place && found != Found::Damaged => line.state,
            last => {
                if last.is_some() && found != Found::Damaged {
                    found = Found::Restored;
                }
                WitnessState::new(random()?)
            }
        };
        let (log, line) = rewrite(folder, site, state).map_err(io("write the log"))?;
        let folder = folder.to_owned();
        Ok(Self { folder, log, line, lines: 1, broken: false, found, _lock: lock })
    }

    /// How the record was found.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// The record in force.
    #[must_use]
    pub fn record(&self) -> &WitnessRecord {
        &self.line.state.record
    }

    /// Carries out a swap. The answer exists only after the change has reached the disk.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing was granted, and nothing will be before a new start.
    pub fn swap(&mut self, request: &WitnessSwap) -> Result<WitnessAnswer, StoreError> {
        if self.broken {
            return Err(StoreError::Broken);
        }
        let mut state = self.line.state.clone();
        let answer = state.swap(request);
        if state == self.line.state {
            return Ok(answer);
        }
        // After a failed write or sync it is not known what the disk holds: no more answers.
        self.broken = true;
        self.append(state).map_err(|source| StoreError::Io {
            action: "write the log",
            folder: self.folder.clone(),
            source,
        })?;
        self.broken = false;
        Ok(answer)
    }

    fn append(&mut self, state: WitnessState) -> io::Result<()> {
        if self.lines >= LINES_MAX {
            (self.log, self.line) = rewrite(&self.folder, &self.line.site, state)?;
            self.lines = 1;
            return Ok(());
        }
        let line = Line { state, ..self.line.clone() };
        self.log.write_all(encode(&line).as_bytes())?;
        self.log.sync_data()?;
        self.line = line;
        self.lines += 1;
        Ok(())
    }
}

fn encode(line: &Line) -> String {
    let json = serde_json::to_string(line).expect("plain data becomes JSON");
    format!("{} {json}\n", checksum(&json))
}

fn checksum(json: &str) -> String {
    let digest = Sha256::digest(json.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn decode(text: &str) -> Option<Line> {
    let (sum, json) = text.split_once(' ')?;
    (checksum(json) == sum).then(|| serde_json::from_str(json).ok())?
}

/// What a log's last whole line says, as a start would read it.
#[must_use]
pub fn last_state(log: &[u8]) -> Option<WitnessState> {
    replay(Some(log)).0.map(|line| line.state)
}

/// The last whole line. A line without its end was not answered; one with an end and a wrong checksum
/// may have been.
fn replay(text: Option<&[u8]>) -> (Option<Line>, Found) {
    let Some(text) = text else { return (None, Found::New) };
    let mut last = None;
    let mut rest = text;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (head, tail) = rest.split_at(end);
        match std::str::from_utf8(head).ok().and_then(decode) {
            Some(line) => last = Some(line),
            None => return (last, Found::Damaged),
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    match (&last, rest.is_empty()) {
        (Some(_), true) => (last, Found::Whole),
        (Some(_), false) => (last, Found::Torn),
        (None, _) => (None, Found::Damaged),
    }
}

/// A log of one line in place of the old one.
fn rewrite(folder: &Path, site: &SiteName, state: WitnessState) -> io::Result<(File, Line)> {
    let (path, new) = (folder.join(LOG), folder.join(NEW_LOG));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let line = Line { site: site.clone(), place: Place::of(&new)?, state };
    file.write_all(encode(&line).as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok((file, line))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LOG_BYTES_MAX).read_to_end(&mut text).map(|_| Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn random() -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    // JSON numbers of other languages are exact up to 2^53.
    Ok(u64::from_be_bytes(bytes) >> 12)
}
