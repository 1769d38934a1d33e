// SPDX-License-Identifier: Apache-2.0
//! `--json [FILE]`: where a command writes what it found, for programs.

use anyhow::Context;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The name of standard output, as of `--json` without a file.
pub const STDOUT: &str = "-";

/// Where a report goes; taken before the work starts, so that none is done in vain.
pub struct Report(File);

impl Report {
    /// Opens what `--json` named. For standard output, everything that is for people goes to
    /// standard error from now on.
    pub fn open(file: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(file) = file else { return Ok(None) };
        if file != Path::new(STDOUT) {
            let created = File::create(file);
            return Ok(Some(Self(
                created.with_context(|| format!("Creating {}", file.display()))?,
            )));
        }
        let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(std::io::stderr())?;
        Ok(Some(Self(stdout.into())))
    }

    /// Writes the report, as JSON with a line break at its end.
    pub fn write(mut self, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.0.write_all(text.as_bytes()).context("Writing the report of --json")
    }
}

/// A report's file as named on the command line: `-` or `….json`, so that a word that was meant
/// otherwise, such as a scenario, is not taken for a file.
pub fn named(text: &str) -> Result<PathBuf, String> {
    if text == STDOUT || Path::new(text).extension().is_some_and(|end| end == "json") {
        return Ok(PathBuf::from(text));
    }
    Err("a report's file ends in .json; without a file it goes to standard output".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_written_to_the_file_that_was_named_and_a_bad_one_is_told_before_any_work() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("figures.json");
        Report::open(Some(&file)).unwrap().unwrap().write(&[1, 2]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "[\n  1,\n  2\n]\n");
        assert!(Report::open(None).unwrap().is_none());
        let nowhere = dir.path().join("missing").join("figures.json");
        let error = Report::open(Some(&nowhere)).err().unwrap().to_string();
        assert!(error.contains("missing/figures.json"), "{error}");
    }

    #[test]
    fn a_scenario_is_not_taken_for_a_file() {
        assert!(named("drain").is_err());
        assert_eq!(named(STDOUT), Ok(PathBuf::from("-")));
        assert_eq!(named("out/figures.json"), Ok(PathBuf::from("out/figures.json")));
    }
}
