// SPDX-License-Identifier: Apache-2.0
//! What a person sees: progress bars in a terminal, plain lines in a log.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Measures one command or step.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Time since the start, for a person.
    pub fn human(&self) -> String {
        human(self.elapsed())
    }
}

/// A duration as `0.4 s`, `12 s` or `3 min 05 s`.
pub fn human(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{secs} s"),
        _ => format!("{} min {:02} s", secs / 60, secs % 60),
    }
}

/// Prints one line; nobody need read to the end.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A piece of work that is shown while it runs: a spinner in a terminal, two lines in a log.
pub struct Step {
    name: String,
    clock: Stopwatch,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Shows that `name` began.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(name.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            line(&format!("... {name}"));
        }
        Self { name, clock: Stopwatch::start(), bar }
    }

    /// Shows what the work is at; only a terminal shows it.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {text}", self.name));
        }
    }

    /// Shows that it ended well.
    pub fn done(self) {
        self.end("ok  ", "");
    }

    /// Shows that there was nothing to do, or why it ended as it did.
    pub fn done_with(self, note: &str) {
        self.end("ok  ", note);
    }

    /// Shows that it failed.
    pub fn failed(self) {
        self.end("FAIL", "");
    }

    fn end(self, mark: &str, note: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let note = if note.is_empty() { String::new() } else { format!(", {note}") };
        line(&format!("{mark} {} ({}{note})", self.name, self.clock.human()));
    }
}
