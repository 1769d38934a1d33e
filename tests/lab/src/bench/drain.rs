// SPDX-License-Identifier: Apache-2.0
//! The VM's server is drained and the VM goes over while it runs: how long its customers wait.

use super::sample::{Phases, Sample};
use crate::matrix::moves::{drain_host, undrain, went_live};
use crate::matrix::round::Round;
use crate::server::Server;
use crate::site::Site;
use anyhow::{Context, ensure};

const JOURNAL_LINES: u32 = 400;

pub fn run(site: &mut Site) -> anyhow::Result<Sample> {
    let mut round = Round::begin(site)?;
    let prober = round.probe()?;
    let start_s = round.site.timeline.now_s();
    drain_host(&mut round)?;
    let drained_s = round.site.timeline.now_s() - start_s;
    round.serves()?;
    let host = round.host;
    // A guest that was restarted measures something else.
    ensure!(went_live(&mut round, host)?, "the VM was moved by a restart");
    let pause_s = prober.longest_gap_s(start_s).context("The guest answers no probe")?;
    drop(prober);
    let (host, other) = (round.host, round.other);
    let phases = Phases::from([
        ("pause_s", pause_s),
        ("memory_s", told_s(round.site.server(host), "stopped_ms")?),
        ("released_s", told_s(round.site.server(other), "released_ms")?),
        ("customer_pause_s", round.gap_s()),
        ("drained_s", drained_s),
    ]);
    let end_s = round.site.timeline.now_s();
    undrain(&round)?;
    round.nobody_alone()?;
    ensure!(round.site.host_of_vm()? == round.other, "the VM is not on the other server");
    Sample::close(round, phases, end_s)
}

/// Seconds of the last such field, in milliseconds, in an agent's journal: parts of the pause.
fn told_s(server: &Server, field: &str) -> anyhow::Result<f64> {
    let journal = server.journal("forecourt-agent", JOURNAL_LINES)?;
    let ms = last_number(&journal, field);
    ms.with_context(|| format!("Server {} does not tell its {field}", server.name()))
        .map(|ms| ms / 1000.0)
}

fn last_number(journal: &str, field: &str) -> Option<f64> {
    let (_, rest) = journal.rsplit_once(&format!("\"{field}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::last_number;

    #[test]
    fn the_last_number_of_a_field_counts() {
        let journal = "{\"ms\":1,\"x\":2}\nnoise \"ms\":\n{\"x\":3,\"ms\":44}\n{\"x\":5}";
        assert_eq!(last_number(journal, "ms"), Some(44.0));
        assert_eq!(last_number(journal, "y"), None);
    }
}
