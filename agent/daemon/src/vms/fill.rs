// SPDX-License-Identifier: Apache-2.0
//! The pool's guard. A thin pool that runs full stops the writes of every guest on it, so people
//! hear of it at 80 %, and from 90 % nothing new is put on it. A blank disk is taken meanwhile.

use super::pool;
use crate::hq::client::error_chain;
use crate::status::{Concern, Hub};
use hypervisor_glue::volumes::{PoolUsage, Volumes};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

const ALARM_PERCENT: f64 = 80.0;
const FULL_PERCENT: f64 = 90.0;
/// A limit once reached is left this far below: usage swings.
const SLACK_PERCENT: f64 = 2.0;
/// Each look runs LVM's tools.
const PERIOD: Duration = Duration::from_secs(300);
const PERIOD_ALARM: Duration = Duration::from_secs(60);

/// How full the pool is, in terms of what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// Nothing to say.
    Fine,
    /// People are told.
    Alarm,
    /// Nothing new is put on it.
    Full,
}

impl Fill {
    /// What follows from `usage` if this followed from the one before.
    #[must_use]
    pub fn next(self, usage: &PoolUsage) -> Self {
        let percent = fullest(usage);
        let reached = |fill: Self, limit: f64| {
            percent >= if self >= fill { limit - SLACK_PERCENT } else { limit }
        };
        if reached(Self::Full, FULL_PERCENT) {
            Self::Full
        } else if reached(Self::Alarm, ALARM_PERCENT) {
            Self::Alarm
        } else {
            Self::Fine
        }
    }
}

/// The share of what is fuller, data or metadata.
fn fullest(usage: &PoolUsage) -> f64 {
    usage.data_percent.max(usage.metadata_percent)
}

/// Looks at the pool from time to time.
pub struct Guard {
    volumes: Arc<dyn Volumes>,
    hub: Arc<Hub>,
    fill: watch::Sender<Fill>,
}

impl Guard {
    /// A guard, and what it has seen.
    #[must_use]
    pub fn new(volumes: Arc<dyn Volumes>, hub: Arc<Hub>) -> (Self, watch::Receiver<Fill>) {
        let (fill, seen) = watch::channel(Fill::Fine);
        (Self { volumes, hub, fill }, seen)
    }

    /// Runs for ever.
    pub async fn run(self) {
        loop {
            let alarmed = *self.fill.borrow() > Fill::Fine;
            sleep(if alarmed { PERIOD_ALARM } else { PERIOD }).await;
            self.look().await;
        }
    }

    /// One look; takes a blank disk if the pool needs one.
    pub async fn look(&self) {
        match self.volumes.usage().await {
            Ok(usage) => self.judge(&usage),
            // Whoever needs the pool says what is wrong with it.
            Err(err) => tracing::debug!(error = error_chain(&err), "pool's usage unknown"),
        }
        if *self.fill.borrow() == Fill::Fine {
            return;
        }
        if let Err(err) = pool::once(&self.volumes, &self.hub).await {
            tracing::warn!(error = error_chain(&err), "pool not extended");
        }
    }

    fn judge(&self, usage: &PoolUsage) {
        let fill = self.fill.borrow().next(usage);
        self.fill.send_replace(fill);
        let percent = fullest(usage);
        let words = match fill {
            Fill::Fine => None,
            Fill::Alarm => Some(format!(
                "The disks for VMs are {percent:.0} % full. Put in a blank disk (it will be taken by \
                 itself): from 90 % on nothing new is put on them"
            )),
            Fill::Full => Some(format!(
                "The disks for VMs are {percent:.0} % full: nothing new is put on them, and VMs stop \
                 when they are full. Put in a blank disk now: it will be taken by itself"
            )),
        };
        self.hub.problem(Concern::Disks, "fill", words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::causes::Causes;
    use crate::status::hub::Fixed;
    use hypervisor_glue::volumes::{DiskReport, DiskVerdict, FakeVolumes};

    fn usage(data: f64, metadata: f64) -> PoolUsage {
        PoolUsage { size_bytes: 1 << 30, data_percent: data, metadata_percent: metadata }
    }

    #[test]
    fn limits_are_left_only_well_below_and_metadata_counts() {
        let steps = [
            (79.9, Fill::Fine),
            (80.0, Fill::Alarm),
            (78.5, Fill::Alarm),
            (90.0, Fill::Full),
            (88.5, Fill::Full),
            (87.0, Fill::Alarm),
            (77.0, Fill::Fine),
        ];
        let mut fill = Fill::Fine;
        for (percent, expected) in steps {
            fill = fill.next(&usage(percent, 1.0));
            assert_eq!(fill, expected, "at {percent} %");
        }
        assert_eq!(Fill::Fine.next(&usage(1.0, 95.0)), Fill::Full);
    }

    #[tokio::test]
    async fn people_hear_of_a_full_pool_and_of_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeVolumes::new(dir.path());
        let volumes: Arc<dyn Volumes> = Arc::new(fake.clone());
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        let hub = Arc::new(Hub::new(Fixed::default(), causes));
        let (guard, seen) = Guard::new(volumes, hub.clone());
        fake.set_data_percent(91.4);
        guard.look().await;
        assert_eq!(*seen.borrow(), Fill::Full);
        let problems = hub.local().server.problems;
        assert!(problems.iter().any(|words| words.contains("91 % full")), "{problems:?}");
        fake.set_data_percent(50.0);
        guard.look().await;
        assert_eq!(*seen.borrow(), Fill::Fine);
        assert!(!hub.local().server.problems.iter().any(|words| words.contains("full")));
    }

    #[tokio::test]
    async fn a_blank_disk_is_taken_when_the_pool_fills_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeVolumes::new(dir.path());
        let volumes: Arc<dyn Volumes> = Arc::new(fake.clone());
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        let hub = Arc::new(Hub::new(Fixed::default(), causes));
        assert!(pool::once(&volumes, &hub).await.unwrap(), "the first disk makes the pool");
        let mut reports = fake.survey().await.unwrap();
        let path = std::path::PathBuf::from("/dev/fake1");
        reports.push(DiskReport { path, verdict: DiskVerdict::Blank, ..reports[0].clone() });
        fake.set_survey(reports);
        let verdict = async || fake.survey().await.unwrap()[1].verdict.clone();
        let (guard, _seen) = Guard::new(volumes, hub);
        fake.set_data_percent(79.0);
        guard.look().await;
        assert_eq!(verdict().await, DiskVerdict::Blank);
        fake.set_data_percent(80.0);
        guard.look().await;
        assert_eq!(verdict().await, DiskVerdict::Ours);
    }
}
