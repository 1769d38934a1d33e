// SPDX-License-Identifier: Apache-2.0
//! `bench peers`: the same kill on the same machines, Forecourt beside Debian's Pacemaker.
//!
//! Both get the same two emulated servers, cable and LAN, the same BMCs, the same guest and the same
//! writer. The power of the server that runs the VM is cut; its BMC lives on and says so. What each
//! rival's server is made of and how it was tuned: `tests/lab/peers/README.md`.

mod cluster;
mod forecourt;
mod journal;

use super::Spread;
use super::sample::{Runs, Sample};
use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::site::Site;
use crate::timeline::Timeline;
use anyhow::{bail, ensure};
use cluster::{Cluster, Handler};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// Forecourt without a BMC, HQ as its witness.
    Forecourt,
    /// Forecourt that knows its servers' BMCs.
    ForecourtBmc,
    /// Pacemaker with DRBD's fence handler repaired.
    Pacemaker,
    /// Pacemaker with DRBD's fence handler as Debian ships it.
    PacemakerAsShipped,
}

impl Contender {
    /// All, in the order they run.
    pub const ALL: [Self; 4] =
        [Self::Forecourt, Self::ForecourtBmc, Self::Pacemaker, Self::PacemakerAsShipped];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Forecourt => "forecourt",
            Self::ForecourtBmc => "forecourt-bmc",
            Self::Pacemaker => "pacemaker",
            Self::PacemakerAsShipped => "pacemaker-as-shipped",
        }
    }

    fn handler(self) -> Option<Handler> {
        match self {
            Self::Forecourt | Self::ForecourtBmc => None,
            Self::Pacemaker => Some(Handler::Repaired),
            Self::PacemakerAsShipped => Some(Handler::AsShipped),
        }
    }

    /// Finds contenders by name, in the order they run; all of them when none is named.
    pub fn select(names: &[String]) -> anyhow::Result<Vec<Self>> {
        for name in names {
            if !Self::ALL.iter().any(|contender| contender.name() == name) {
                let all = Self::ALL.map(Self::name).join(", ");
                bail!("there is no contender \"{name}\"; there are {all}");
            }
        }
        let wanted = |one: &Self| names.is_empty() || names.iter().any(|n| n == one.name());
        Ok(Self::ALL.into_iter().filter(wanted).collect())
    }
}

/// `bench peers`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How the servers were run.
    pub accel: Accel,
    pub contenders: Vec<Standing>,
    /// Pacemaker's median over that of Forecourt with a BMC, by phase of the failover.
    pub ratios: BTreeMap<&'static str, f64>,
}

/// What one contender came to.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    pub contender: Contender,
    #[serde(flatten)]
    pub all: Runs,
}

/// Kills each contender's server so many times. What goes wrong with one ends that one alone.
pub fn run(
    artifacts: &Artifacts,
    timeline: &Timeline,
    rivals_image: &Path,
    contenders: &[Contender],
    runs: u32,
) -> anyhow::Result<Report> {
    ensure!(!contenders.is_empty(), "nobody to measure");
    let mut all = Vec::new();
    let (ours, theirs): (Vec<_>, Vec<_>) =
        contenders.iter().partition(|contender| contender.handler().is_none());
    if !ours.is_empty() {
        all.extend(run_ours(artifacts, timeline, &ours, runs));
    }
    if !theirs.is_empty() {
        all.extend(run_theirs(artifacts, timeline, rivals_image, &theirs, runs));
    }
    let ratios = ratios(&all);
    Ok(Report { accel: artifacts.accel()?, contenders: all, ratios })
}

fn run_ours(
    artifacts: &Artifacts,
    timeline: &Timeline,
    contenders: &[Contender],
    runs: u32,
) -> Vec<Standing> {
    let site = Site::prepare(artifacts, "bench-peers-forecourt", timeline)
        .and_then(|mut site| site.bring_up().map(|()| site));
    run_each(site, timeline, contenders, runs, |site, contender| match contender {
        Contender::ForecourtBmc => forecourt::with_bmc(site),
        _ => super::wan_up::run(site),
    })
}

fn run_theirs(
    artifacts: &Artifacts,
    timeline: &Timeline,
    image: &Path,
    contenders: &[Contender],
    runs: u32,
) -> Vec<Standing> {
    let cluster = Cluster::prepare(artifacts, image, timeline)
        .and_then(|mut cluster| cluster.bring_up().map(|()| cluster));
    run_each(cluster, timeline, contenders, runs, |cluster, contender| {
        cluster.kill_host(contender.handler().unwrap_or(Handler::Repaired))
    })
}

/// Runs each contender on one pair of servers, which is taken down at the end.
fn run_each<Pair>(
    pair: anyhow::Result<Pair>,
    timeline: &Timeline,
    contenders: &[Contender],
    runs: u32,
    mut kill: impl FnMut(&mut Pair, Contender) -> anyhow::Result<Sample>,
) -> Vec<Standing> {
    let mut pair = match pair {
        Ok(pair) => pair,
        Err(error) => {
            timeline.note("lab", format!("FAILED: {error:#}"));
            let failed = |one: &Contender| Standing {
                contender: *one,
                all: Runs::of(vec![], Some(format!("{error:#}"))),
            };
            return contenders.iter().map(failed).collect();
        }
    };
    let mut all = Vec::new();
    for contender in contenders {
        let (mut samples, mut failure) = (Vec::new(), None);
        for run in 1..=runs {
            let name = contender.name();
            timeline.note("lab", format!("{name} {run} of {runs}"));
            match kill(&mut pair, *contender) {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    timeline.note("lab", format!("{name} FAILED: {error:#}"));
                    failure = Some(format!("run {run}: {error:#}"));
                    break;
                }
            }
        }
        all.push(Standing { contender: *contender, all: Runs::of(samples, failure) });
    }
    all
}

fn ratios(all: &[Standing]) -> BTreeMap<&'static str, f64> {
    let phases = |wanted| all.iter().find(|one| one.contender == wanted).map(|one| &one.all.phases);
    let (Some(ours), Some(theirs)) =
        (phases(Contender::ForecourtBmc), phases(Contender::Pacemaker))
    else {
        return BTreeMap::new();
    };
    let ratio = |(phase, spread): (&&'static str, &Spread)| {
        // Each pair's return is looked at in another way, so it is shown and not compared.
        let own = ours.get(phase)?.p50;
        (own > 0.0 && *phase != "resync_s").then(|| (*phase, spread.p50 / own))
    };
    theirs.iter().filter_map(ratio).collect()
}

#[cfg(test)]
mod tests {
    use super::{Contender, Sample, Standing, ratios};

    #[test]
    fn contenders_are_found_by_name_and_an_unknown_one_is_refused() {
        assert_eq!(Contender::select(&[]).unwrap(), Contender::ALL);
        let names = ["pacemaker", "forecourt"].map(str::to_owned);
        let found = Contender::select(&names).unwrap();
        assert_eq!(found, [Contender::Forecourt, Contender::Pacemaker]);
        assert!(Contender::select(&["heartbeat".to_owned()]).is_err());
        for contender in Contender::ALL {
            assert_eq!(serde_json::to_value(contender).unwrap(), contender.name());
        }
    }

    #[test]
    fn the_ratio_is_of_medians_of_the_failover_that_both_have() {
        let standing = |contender, phases: &[(&'static str, f64)]| {
            let mut sample = Sample::default();
            sample.phases.extend(phases.iter().copied());
            Standing { contender, all: super::Runs::of(vec![sample], None) }
        };
        let ours = standing(Contender::ForecourtBmc, &[("serving_s", 40.0), ("resync_s", 3.0)]);
        let theirs = standing(
            Contender::Pacemaker,
            &[("serving_s", 100.0), ("promote_s", 9.0), ("resync_s", 6.0)],
        );
        let found = ratios(&[ours.clone(), theirs]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("serving_s", 2.5)]);
        assert!(ratios(&[ours]).is_empty());
    }
}
