// SPDX-License-Identifier: Apache-2.0
//! Reads the YAML files people write; every error names file, line and field.
//!
//! The one place that knows the YAML parser.

use serde::de::DeserializeOwned;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest file read, in bytes. A template's file is under 4 KiB; a site list of 3,500 under 1 MiB.
pub const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Most values in a file: a site list of 3,500 sites has about 60,000.
pub const NODES_MAX: usize = 200_000;
/// Deepest nesting; our files need five.
pub const DEPTH_MAX: usize = 16;
/// Most aliases and anchors: people rarely need one, alias bombs need many.
pub const ALIASES_MAX: usize = 64;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1, if known.
    pub line: Option<u64>,
    /// Path of the field, such as `disks[0].size`; empty for the file as a whole.
    pub field: String,
    /// What is wrong, without a period.
    pub message: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for YamlError {}

/// Reads and parses a file.
///
/// # Errors
/// [`YamlError`] if it cannot be read, is longer than [`FILE_BYTES_MAX`], or is not a `T`.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, YamlError> {
    let fail = |message: String| YamlError {
        file: path.to_path_buf(),
        line: None,
        field: String::new(),
        message,
    };
    let file = std::fs::File::open(path).map_err(|err| fail(format!("cannot be read: {err}")))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|err| fail(format!("cannot be read: {err}")))?;
    parse(&text, path)
}

/// Parses a text; `file` is only named in errors.
///
/// # Errors
/// [`YamlError`] if it is not a `T`.
pub fn parse<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, YamlError> {
    let fail =
        |line, field: String, message| YamlError { file: file.to_path_buf(), line, field, message };
    if u64::try_from(text.len()).is_ok_and(|len| len > FILE_BYTES_MAX) {
        let message = format!("longer than {FILE_BYTES_MAX} bytes");
        return Err(fail(None, String::new(), message));
    }
    let mut field = String::new();
    let result = serde_yaml::with_deserializer_from_str_with_options(text, options(), |de| {
        serde_path_to_error::deserialize(de).map_err(|err| {
            field = err.path().to_string();
            err.into_inner()
        })
    });
    result.map_err(|err| {
        let line = err.location().map(|location| location.line()).filter(|line| *line > 0);
        fail(line, plain_path(&field), message_of(&err))
    })
}

/// The path as people write it: without the `value` steps of `Spanned` fields. (No field of ours
/// is called `value`.)
fn plain_path(path: &str) -> String {
    path.replace(".value", "").trim_matches('.').to_owned()
}

/// The parser's sentence alone: its picture of the source is left out, its position is ours to print.
fn message_of(err: &serde_yaml::Error) -> String {
    let text = err.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    let cut = match first.rfind(" at line ") {
        Some(at) => &first[..at],
        None => first,
    };
    cut.trim_end_matches(['.', ':']).to_owned()
}

fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_reader_input_bytes: Some(usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX)),
            max_nodes: NODES_MAX,
            max_events: 3 * NODES_MAX,
            max_depth: DEPTH_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_merge_keys: ALIASES_MAX,
            max_documents: 1,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: 10_000,
            max_replay_stack_depth: 4,
        },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::time::Instant;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Site {
        name: String,
        servers: Vec<Server>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Server {
        cpus: u32,
    }

    fn error(text: &str) -> String {
        parse::<Site>(text, Path::new("site.yaml")).expect_err("refused").to_string()
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let cases = [
            ("name: a\nservers:\n  - cpus: many\n", "site.yaml:3: servers[0].cpus: "),
            ("name: a\nservers: []\ncolour: red\n", "site.yaml:3: colour: unknown field"),
            ("name: a\nname: b\nservers: []\n", "site.yaml:2: "),
            ("name: a\nservers:\n  - cpus: -1\n", "site.yaml:3: servers[0].cpus: "),
            ("name: [1\n", "site.yaml:"),
            ("name: a\n", "missing field `servers`"),
        ];
        for (text, want) in cases {
            let got = error(text);
            assert!(got.contains(want), "{text:?} gave {got:?}, not {want:?}");
            assert!(!got.contains('\n'), "{got:?} is one line");
        }
    }

    #[test]
    fn bombs_are_refused_quickly() {
        let mut aliases = String::from("name: a\nservers:\n  - &a0 [x, x, x, x, x, x, x, x]\n");
        for level in 1..30 {
            let prior = level - 1;
            let refs = vec![format!("*a{prior}"); 8].join(", ");
            aliases += &format!("  - &a{level} [{refs}]\n");
        }
        let deep = "[".repeat(20_000);
        let long = format!("name: {}\n", "x".repeat(3 * 1024 * 1024));
        for text in [aliases, deep, long] {
            let start = Instant::now();
            assert!(parse::<serde_json::Value>(&text, Path::new("bomb.yaml")).is_err());
            assert!(start.elapsed().as_secs() < 2, "took {:?}", start.elapsed());
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let err = read::<Site>(Path::new("/nonexistent/site.yaml")).expect_err("refused");
        assert!(err.to_string().starts_with("/nonexistent/site.yaml: cannot be read"), "{err}");
    }
}
