// SPDX-License-Identifier: Apache-2.0
//! Errors as operators see them: what happened, hints, and a stable exit code.

use provisioning_protocol::problem::Problem;
use serde::Serialize;
use std::error::Error;
use std::process::ExitCode;

/// Results of commands.
pub type Outcome<T> = Result<T, Failure>;

/// What sort of failure it was. Exit codes never change their meaning; 2 is clap's for wrong usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1: the program itself failed.
    Internal,
    /// 3: a file or value given is wrong.
    Input,
    /// 4: HQ refused.
    Refused,
    /// 5: HQ could not be reached, or is not the one its CA file names.
    Unreachable,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Internal => 1,
            Self::Input => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
        })
    }
}

/// A failed command.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// Sort.
    pub kind: Kind,
    /// What happened, a full sentence without a period.
    pub message: String,
    /// HQ's stable code, if HQ refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, hints: Vec::new() }
    }

    /// A wrong file or value.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// A failure with its whole chain of causes.
    pub fn caused(kind: Kind, message: &str, cause: &(dyn Error + 'static)) -> Self {
        Self::new(kind, format!("{message}: {}", chain(cause)))
    }

    /// HQ's refusal.
    pub fn refused(problem: Problem) -> Self {
        let message = if problem.detail.is_empty() {
            format!("HQ refused: {}", problem.title)
        } else {
            format!("HQ refused: {}", problem.detail)
        };
        let failure =
            Self { code: Some(problem.code.clone()), ..Self::new(Kind::Refused, message) };
        match problem.code.as_str() {
            "bad_token" | "no_token" => failure.hint("name HQ's operator.token with --token"),
            "no_root" => failure.hint("give HQ the catalogue's root: forecourt keys trust"),
            "unknown_template" => failure.hint("publish it first: forecourt template publish"),
            "unknown_blueprint" => failure.hint("apply it first: forecourt blueprint apply"),
            "site_exists" => failure.hint("for new claim codes: forecourt site claims NAME"),
            _ => failure,
        }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says it on standard error, as text or as one JSON object.
    pub fn print(&self, json: bool) {
        if json {
            eprintln!("{}", serde_json::to_string(self).unwrap_or_else(|_| self.message.clone()));
            return;
        }
        eprintln!("error: {}", self.message);
        for hint in &self.hints {
            eprintln!("hint: {hint}");
        }
    }
}

/// An error and all its sources in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}
