// SPDX-License-Identifier: Apache-2.0
//! The long poll of the desired state, and its copy on disk, so that a server runs with HQ down.

use super::client::{Call, HqClient, HqError};
use crate::durable::file::{self, FileError};
use crate::enrol::backoff::{Backoff, jitter};
use crate::hq::client::error_chain;
use crate::hq::tls::TlsMemory;
use crate::identity::clock;
use crate::identity::record::EnrolmentRecord;
use crate::status::Hub;
use provisioning_protocol::desired::{DESIRED_PATH, Desired};
use reqwest::StatusCode;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait between tries while HQ is away: a site must come back soon after its WAN does.
const BACKOFF_S_MAX: u64 = 30;
/// The clock's floor is kept this often.
const FLOOR_STEP_S: u64 = 6 * 3600;
const DESIRED_BYTES_MAX: u64 = 1024 * 1024;

/// Reads the copy kept on disk. One that cannot be read counts as absent, and says so.
pub fn load(path: &Path) -> Option<Desired> {
    match file::read_json(path, "desired state", DESIRED_BYTES_MAX) {
        Ok(desired) => desired,
        Err(error) => {
            tracing::warn!(error = error_chain(&error), "kept desired state unusable");
            None
        }
    }
}

/// The poller.
#[derive(Debug)]
pub struct Poller {
    /// HQ.
    pub hq: HqClient,
    /// Where to keep the last answer.
    pub path: PathBuf,
    /// Status.
    pub hub: Arc<Hub>,
    /// TLS memory: knows whether the clock counts.
    pub memory: Arc<TlsMemory>,
    /// Enrolment record: keeps the clock's floor.
    pub record: Arc<Mutex<EnrolmentRecord>>,
    /// Where the record is kept.
    pub identity_dir: PathBuf,
    /// Who wants to know.
    pub out: watch::Sender<Option<Desired>>,
}

impl Poller {
    /// Runs for ever.
    pub async fn run(self) {
        let mut backoff = Backoff::capped(BACKOFF_S_MAX);
        // Not the kept copy's tag: HQ must have the chance to correct a damaged copy.
        let mut etag: Option<String> = None;
        loop {
            match self.once(&mut etag).await {
                Ok(()) => {
                    backoff.reset();
                    self.hub.hq_answered(self.hq.url());
                }
                Err(err) => {
                    let text = error_chain(&err);
                    tracing::info!(error = text, "no desired state from HQ");
                    self.hub.hq_failed(self.hq.url(), &text);
                    if err.no_network() {
                        backoff.reset();
                    }
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn once(&self, etag: &mut Option<String>) -> Result<(), HqError> {
        let wait_s = jitter(40_000).as_secs().clamp(25, 50);
        let path = format!("{DESIRED_PATH}?wait={wait_s}");
        let mut call = Call::get(&path).within(Duration::from_secs(wait_s + 10));
        if let Some(tag) = etag {
            call = call.header("if-none-match", tag.clone());
        }
        let answer = self.hq.call(call).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(());
        }
        let desired: Desired = serde_json::from_slice(&answer.body).map_err(|_| {
            HqError::Answer { url: self.hq.url().to_owned(), what: "desired state" }
        })?;
        *etag = answer.etag;
        {
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            if desired.site != record.site || desired.slot != record.slot {
                let what = "desired state of this server";
                return Err(HqError::Answer { url: self.hq.url().to_owned(), what });
            }
        }
        self.clock(desired.server_time_s);
        self.take(desired);
        Ok(())
    }

    /// HQ's time came over a connection to the pinned root just now: it sets a wrong clock, and
    /// raises the floor below which no clock is believed.
    fn clock(&self, server_time_s: u64) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if server_time_s < record.time_floor_s {
            tracing::warn!(server_time_s, "HQ's clock has gone back");
            return;
        }
        match clock::set(server_time_s) {
            Ok(true) => self.hub.event("clock_set", "the clock was set to HQ's time"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "clock not set");
                return;
            }
        }
        self.memory.set_clock_trusted(true);
        if self.hub.read(|state| !state.clock_trusted) {
            self.hub.update(|state| state.clock_trusted = true);
        }
        if server_time_s - record.time_floor_s >= FLOOR_STEP_S {
            record.time_floor_s = server_time_s;
            if let Err(error) = record.store(&self.identity_dir) {
                tracing::warn!(error = error_chain(&error), "clock floor not kept");
            }
        }
    }

    fn take(&self, desired: Desired) {
        let known = self.out.borrow().clone();
        if known.as_ref().is_some_and(|known| known.revision > desired.revision) {
            tracing::warn!(revision = desired.revision, "HQ's desired state is older than ours");
        }
        let same = known.is_some_and(|known| same_order(&known, &desired));
        if let Err(error) = keep(&self.path, &desired) {
            tracing::error!(error = error_chain(&error), "desired state not kept");
        }
        if !same {
            tracing::info!(revision = desired.revision, vms = desired.vms.len(), "desired state");
        }
        self.out.send_if_modified(|slot| {
            *slot = Some(desired);
            !same
        });
    }
}

/// Equal but for the time it was sent.
fn same_order(a: &Desired, b: &Desired) -> bool {
    Desired { server_time_s: 0, ..a.clone() } == Desired { server_time_s: 0, ..b.clone() }
}

/// The desired state holds the replication secret.
fn keep(path: &Path, desired: &Desired) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(desired).expect("plain data becomes JSON");
    file::replace(path, &bytes, file::Mode::Secret, true)
}
