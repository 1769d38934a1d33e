// SPDX-License-Identifier: Apache-2.0
//! `causes.jsonl`: one line a person can read for each takeover, grant or refusal.

use provisioning_protocol::report::Event;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file is turned over once it is this long; one older part is kept.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

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

    /// Appends one event and syncs it.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        if std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() > BYTES_MAX) {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(&line)?;
        file.sync_data()
    }
}
