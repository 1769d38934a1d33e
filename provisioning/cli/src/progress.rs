// SPDX-License-Identifier: Apache-2.0
//! Progress: a bar on a terminal, a line for each quarter elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A count towards a total.
pub struct Progress {
    name: String,
    total: u64,
    bar: Option<ProgressBar>,
    quarter: u64,
}

impl Progress {
    /// Begins to count bytes.
    pub fn bytes(name: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let form = "{msg:<22} [{bar:32}] {binary_bytes}/{binary_total_bytes} {eta}";
            bar.set_style(
                ProgressStyle::with_template(form)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar.set_message(name.to_owned());
            bar
        });
        Self { name: name.to_owned(), total, bar, quarter: 0 }
    }

    /// Says how far it is.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let quarter = (done * 4).checked_div(self.total).unwrap_or(4);
        if quarter > self.quarter {
            self.quarter = quarter;
            eprintln!("{}: {} %", self.name, quarter * 25);
        }
    }

    /// Ends it.
    pub fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
