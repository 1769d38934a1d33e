// SPDX-License-Identifier: Apache-2.0
//! What can go wrong when a server is told to do something.

use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Result of an operation on the server.
pub type Result<T> = std::result::Result<T, GlueError>;

/// Why an operation on the server failed.
#[derive(Debug, Error)]
pub enum GlueError {
    /// A program could not be started.
    #[error("Could not run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program ended with a status that means failure.
    #[error("{command} ended with {status}: {stderr}")]
    Failed {
        /// Program and first words of its arguments (never a secret).
        command: String,
        /// Exit status in words.
        status: String,
        /// Exit code, if it was not killed.
        code: Option<i32>,
        /// Its last words, bounded.
        stderr: String,
    },
    /// Something took longer than it may.
    #[error("{what} did not end within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// An answer could not be understood.
    #[error("Could not read {what}: {detail}")]
    Parse {
        /// Whose answer.
        what: String,
        /// What is wrong with it, bounded.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("Could not {operation} {path}")]
    File {
        /// Verb.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// systemd refused or could not be reached.
    #[error("Could not {operation} over D-Bus: {detail}")]
    Bus {
        /// What was asked.
        operation: String,
        /// The bus's answer.
        detail: String,
    },
    /// QEMU answered with an error or went away.
    #[error("QEMU refused {command}: {detail}")]
    Qmp {
        /// QMP command.
        command: String,
        /// Its answer.
        detail: String,
    },
    /// The thing asked for does not exist.
    #[error("There is no {what}")]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// The operation would break a rule of this crate, and was not tried.
    #[error("Refused to {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: String,
        /// Why it was not done.
        reason: String,
    },
}

impl GlueError {
    /// A [`GlueError::Parse`] with its detail cut to 300 characters.
    pub(crate) fn parse(what: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::Parse { what: what.into(), detail: detail.to_string().chars().take(300).collect() }
    }

    /// A [`GlueError::Refused`].
    pub(crate) fn refused(operation: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { operation: operation.into(), reason: reason.into() }
    }

    /// A [`GlueError::File`].
    pub(crate) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        Self::File { operation, path: path.into(), source }
    }
}

/// The whole chain of an error in one line.
#[must_use]
pub fn error_chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
