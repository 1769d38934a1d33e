// SPDX-License-Identifier: Apache-2.0
//! Runs scenarios in turn on one pair of servers: booting a pair is what costs.

use crate::artifacts::Artifacts;
use crate::failover::{LOST_WORDS, describe};
use crate::matrix::MATRIX;
use crate::scenarios::GATE;
use crate::server::{BOOT_LIMIT, Server};
use crate::site::{SITE, Site};
use crate::timeline::{Event, Timeline};
use anyhow::{Context, bail};
use serde::Serialize;
use std::time::Duration;

/// One scenario. It finds a healthy pair and must leave one.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// What it does.
    pub run: fn(&mut Site) -> anyhow::Result<()>,
}

/// What became of one scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Why it failed at first, if it passed when repeated on a recovered pair. A loaded machine may
    /// cost a scenario its time limits; whoever reads this looks whether it was that.
    pub first_error: Option<String>,
}

/// The results of a run, with everything that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// `kvm` or `tcg`.
    pub accel: &'static str,
    /// One for each scenario.
    pub scenarios: Vec<Outcome>,
    /// The timeline.
    pub events: Vec<Event>,
}

/// All scenarios, in the order they run.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    GATE.iter().chain(MATRIX.iter().copied().flatten())
}

/// Finds scenarios by name; all of them when none is named.
pub fn select(names: &[String]) -> anyhow::Result<Vec<Scenario>> {
    for name in names {
        if !all().any(|scenario| scenario.name == name) {
            bail!("there is no scenario \"{name}\"; `cargo xtask lab --list` shows them");
        }
    }
    let wanted =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|n| n == scenario.name);
    Ok(all().filter(wanted).copied().collect())
}

/// Runs scenarios on one pair, brought up first as a scenario of its own.
pub fn run(
    artifacts: &Artifacts,
    timeline: &Timeline,
    scenarios: &[Scenario],
) -> anyhow::Result<Results> {
    let mut outcomes = Vec::new();
    let (mut site, mut healthy) = bring_up(artifacts, "lab", timeline, &mut outcomes)?;
    if !healthy {
        // As any other scenario: once more, on machines that are as new as the first ones were.
        let first_error = outcomes.pop().and_then(|outcome| outcome.error);
        drop(site);
        timeline.note("lab", "scenario bring-up is repeated");
        (site, healthy) = bring_up(artifacts, "lab-again", timeline, &mut outcomes)?;
        if let Some(outcome) = outcomes.last_mut() {
            outcome.first_error = first_error;
        }
    }
    for scenario in scenarios {
        if healthy {
            healthy = run_twice(&mut site, scenario, &mut outcomes);
        } else {
            let error = Some("not run: the pair is not healthy".to_owned());
            let name = scenario.name.to_owned();
            outcomes.push(Outcome { name, seconds: 0.0, error, first_error: None });
        }
    }
    let accel = site.accel.name();
    Ok(Results { accel, scenarios: outcomes, events: timeline.events() })
}

/// New machines, and whether they became a healthy pair.
fn bring_up(
    artifacts: &Artifacts,
    name: &str,
    timeline: &Timeline,
    outcomes: &mut Vec<Outcome>,
) -> anyhow::Result<(Site, bool)> {
    let mut site = Site::prepare(artifacts, name, timeline)?;
    let up = Scenario { name: "bring-up", about: "", run: crate::scenarios::bring_up };
    let healthy = run_one(&mut site, &up, outcomes);
    Ok((site, healthy))
}

/// Runs a scenario, and once more if it failed; whether the pair is healthy at the end. Lost writes
/// are never tried again.
fn run_twice(site: &mut Site, scenario: &Scenario, outcomes: &mut Vec<Outcome>) -> bool {
    if run_one(site, scenario, outcomes) {
        return true;
    }
    if !recover(site) {
        return false;
    }
    let first = outcomes.last().and_then(|outcome| outcome.error.clone()).unwrap_or_default();
    if first.contains(LOST_WORDS) {
        return true;
    }
    outcomes.pop();
    site.timeline.note("lab", format!("scenario {} is repeated", scenario.name));
    let passed = run_one(site, scenario, outcomes);
    if let Some(outcome) = outcomes.last_mut() {
        outcome.first_error = Some(first);
    }
    passed || recover(site)
}

fn run_one(site: &mut Site, scenario: &Scenario, outcomes: &mut Vec<Outcome>) -> bool {
    let start_s = site.timeline.note("lab", format!("scenario {}", scenario.name));
    let outcome = (scenario.run)(site);
    let seconds = site.timeline.now_s() - start_s;
    let error = outcome.err().map(|error| format!("{error:#}"));
    let word = error.as_ref().map_or("passed".to_owned(), |error| format!("FAILED: {error}"));
    site.timeline.note("lab", format!("scenario {} {word} ({seconds:.0} s)", scenario.name));
    if error.is_some() {
        collect(site, scenario.name);
    }
    let passed = error.is_none();
    let name = scenario.name.to_owned();
    outcomes.push(Outcome { name, seconds, error, first_error: None });
    passed
}

/// After a failure: everything on and connected again, so that the next scenario has a chance.
pub(crate) fn recover(site: &mut Site) -> bool {
    site.lan.heal_all();
    site.lan.unblock_all();
    site.cable.heal_all();
    site.heal_wan();
    let outcome = (|| -> anyhow::Result<()> {
        if !site.hq.is_running() {
            site.hq.start()?;
        }
        for slot in ["A", "B"] {
            // Refused for one that is not drained.
            let _ = site.hq.cli(&["site", "undrain", SITE, slot]);
        }
        for name in ["a", "b"] {
            let server = site.server(name);
            if !server.is_on() {
                server.power_on()?;
                server.wait_booted(BOOT_LIMIT)?;
            }
        }
        // A server lost three times within an hour is not counted on (R12) before that.
        site.restart_agents()?;
        site.wait_paired(Duration::from_secs(180))
    })();
    outcome.is_ok()
}

/// Saves what helps to understand a failure into the run's folder.
pub(crate) fn collect(site: &mut Site, scenario: &str) {
    for name in ["a", "b"] {
        let timeline = site.timeline.clone();
        if let Err(error) = collect_server(site.server(name), scenario, &timeline) {
            let text = format!("its logs could not be read: {error:#}");
            site.timeline.note(name, text);
        }
    }
    let folder = site.run.path().display().to_string();
    site.timeline.note("lab", format!("logs and screens are in {folder}"));
}

/// What a server keeps, by the file's ending here. A server that was killed tells of the boot before.
const RECORDS: [(&str, &str); 4] = [
    ("drbd", "cat /proc/drbd 2>&1"),
    ("causes", "cat /var/lib/forecourt/causes.jsonl 2>&1"),
    ("journal", "journalctl -b --no-pager -o short-precise -n 3000 2>&1"),
    ("earlier-journal", "journalctl -b -1 --no-pager -o short-precise -n 3000 2>&1"),
];

/// Of what a server noted, as much is shown after a failure.
const EVENTS_SHOWN: usize = 16;

fn collect_server(server: &mut Server, scenario: &str, timeline: &Timeline) -> anyhow::Result<()> {
    if !server.is_on() {
        return Ok(());
    }
    let screen = server.dir().join(format!("{scenario}.png"));
    server.screendump(&screen).context("Taking a picture of the screen")?;
    let text = describe(server);
    timeline.note(server.name(), &text);
    let events = server.status()?.events;
    for event in &events[events.len().saturating_sub(EVENTS_SHOWN)..] {
        timeline.note(server.name(), format!("noted: {} {}", event.code, event.text));
    }
    std::fs::write(server.dir().join(format!("{scenario}.status")), text)?;
    for (kind, command) in RECORDS {
        let record = server
            .exec_for(command, Duration::from_secs(90))
            .with_context(|| format!("Reading its {kind}"))?;
        std::fs::write(server.dir().join(format!("{scenario}.{kind}")), record.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{all, select};
    use crate::scenarios::GATE;

    #[test]
    fn no_name_means_all_and_an_unknown_name_is_refused() {
        assert_eq!(select(&[]).unwrap().len(), all().count());
        assert_eq!(select(&[GATE[0].name.to_owned()]).unwrap().len(), 1);
        assert!(select(&["nonsense".to_owned()]).is_err());
    }
}
