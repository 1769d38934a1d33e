// SPDX-License-Identifier: Apache-2.0
//! `bench failover`: the ways to lose something, each again and again on one site.

use super::sample::{Runs, Sample};
use super::{bmc, cold, drain, link_cut, on_site, wan_down, wan_up};
use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::failover::LOST_WORDS;
use crate::scenario::{collect, recover};
use crate::site::Site;
use crate::timeline::Timeline;
use crate::witness_box::WitnessBox;
use anyhow::{Context, bail, ensure};
use serde::Serialize;

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    WanUp,
    LinkCut,
    Drain,
    Bmc,
    ColdBoth,
    ColdOne,
    OnSiteWitness,
    WanDown,
}

impl Mode {
    /// All, in the order they run.
    pub const ALL: [Self; 8] = [
        Self::WanUp,
        Self::LinkCut,
        Self::Drain,
        Self::Bmc,
        Self::ColdBoth,
        Self::ColdOne,
        Self::OnSiteWitness,
        Self::WanDown,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WanUp => "wan-up",
            Self::LinkCut => "link-cut",
            Self::Drain => "drain",
            Self::Bmc => "bmc",
            Self::ColdBoth => "cold-both",
            Self::ColdOne => "cold-one",
            Self::OnSiteWitness => "on-site-witness",
            Self::WanDown => "wan-down",
        }
    }

    /// Finds modes by name, in the order they run; all of them when none is named.
    pub fn select(names: &[String]) -> anyhow::Result<Vec<Self>> {
        for name in names {
            if !Self::ALL.iter().any(|mode| mode.name() == name) {
                bail!(
                    "there is no mode \"{name}\"; there are {}",
                    Self::ALL.map(Self::name).join(", ")
                );
            }
        }
        let wanted = |mode: &Self| names.is_empty() || names.iter().any(|n| n == mode.name());
        Ok(Self::ALL.into_iter().filter(wanted).collect())
    }
}

/// `bench failover`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How the servers were run.
    pub accel: Accel,
    /// Each mode.
    pub modes: Vec<ModeReport>,
}

/// One mode.
#[derive(Debug, Clone, Serialize)]
pub struct ModeReport {
    pub mode: Mode,
    #[serde(flatten)]
    pub all: Runs,
}

/// Runs each mode so many times on one site, which stays up between them. What goes wrong in a mode
/// ends that mode alone, if the pair recovers.
pub fn run(
    artifacts: &Artifacts,
    timeline: &Timeline,
    modes: &[Mode],
    runs: u32,
) -> anyhow::Result<Report> {
    ensure!(!modes.is_empty(), "no mode to measure");
    let mut site = Site::prepare(artifacts, "bench-failover", timeline)?;
    site.bring_up()?;
    let mut reports = Vec::new();
    for mode in modes {
        let (samples, error) = run_mode(&mut site, *mode, runs);
        let failed = error.is_some();
        if failed {
            collect(&mut site, mode.name());
        }
        reports.push(ModeReport { mode: *mode, all: Runs::of(samples, error) });
        if failed && !recover(&mut site) {
            timeline.note("lab", "the pair does not recover: the modes left are not run");
            break;
        }
    }
    Ok(Report { accel: site.accel, modes: reports })
}

fn run_mode(site: &mut Site, mode: Mode, runs: u32) -> (Vec<Sample>, Option<String>) {
    let (mut samples, mut witness) = (Vec::new(), None);
    let outcome = (|| -> anyhow::Result<()> {
        for run in 1..=runs {
            site.timeline.note("lab", format!("{} {run} of {runs}", mode.name()));
            let sample = run_one(site, mode, &mut witness).with_context(|| format!("run {run}"))?;
            site.timeline.note("lab", format!("{} {run}: {}", mode.name(), summary(&sample)));
            let lost = sample.lost_writes;
            samples.push(sample);
            ensure!(lost == 0, "run {run}: {lost} {LOST_WORDS}");
        }
        match mode {
            Mode::OnSiteWitness => on_site::end(site, &mut witness),
            Mode::WanDown => wan_down::end(site),
            _ => Ok(()),
        }
    })();
    let error = outcome.err().map(|error| format!("{error:#}"));
    if let Some(error) = &error {
        site.timeline.note("lab", format!("{} FAILED: {error}", mode.name()));
    }
    (samples, error)
}

fn run_one(
    site: &mut Site,
    mode: Mode,
    witness: &mut Option<WitnessBox>,
) -> anyhow::Result<Sample> {
    match mode {
        Mode::WanUp => wan_up::run(site),
        Mode::LinkCut => link_cut::run(site),
        Mode::Drain => drain::run(site),
        Mode::Bmc => bmc::run(site),
        Mode::ColdBoth => cold::both(site),
        Mode::ColdOne => cold::one(site),
        Mode::OnSiteWitness => on_site::run(site, witness),
        Mode::WanDown => wan_down::run(site),
    }
}

fn summary(sample: &Sample) -> String {
    let phases: Vec<String> =
        sample.phases.iter().map(|(phase, seconds)| format!("{phase} {seconds:.2}")).collect();
    format!(
        "{}; {} writes acknowledged, {} lost, {} torn",
        phases.join(", "),
        sample.acked_writes,
        sample.lost_writes,
        sample.torn_writes
    )
}

#[cfg(test)]
mod tests {
    use super::{Mode, Runs, Sample};

    #[test]
    fn modes_are_found_by_name_and_an_unknown_one_is_refused() {
        assert_eq!(Mode::select(&[]).unwrap(), Mode::ALL);
        let names = ["wan-down", "drain"].map(str::to_owned);
        assert_eq!(Mode::select(&names).unwrap(), [Mode::Drain, Mode::WanDown]);
        assert!(Mode::select(&["tide".to_owned()]).is_err());
        for mode in Mode::ALL {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
    }

    #[test]
    fn a_phase_counts_the_runs_that_have_it_and_writes_add_up() {
        let run = |word: Option<f64>, serving: f64| {
            let mut run = Sample { acked_writes: 5, lost_writes: 1, ..Sample::default() };
            run.phases.insert("serving_s", serving);
            run.phases.extend(word.map(|seconds| ("word_to_serving_s", seconds)));
            run
        };
        let runs = vec![run(Some(9.0), 3.0), run(None, 1.0), run(None, 2.0)];
        let report = Runs::of(runs, None);
        let [serving, word] = ["serving_s", "word_to_serving_s"].map(|name| report.phases[name]);
        assert_eq!((serving.min, serving.p50, serving.max), (1.0, 2.0, 3.0));
        assert_eq!((word.min, word.max), (9.0, 9.0));
        assert_eq!((report.acked_writes, report.lost_writes), (15, 3));
    }
}
