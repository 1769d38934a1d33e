// SPDX-License-Identifier: Apache-2.0
//! Whole copies of volumes that a resync is about to overwrite (design note 0014).
//!
//! ```text
//! parted for a while ───┐
//! about to connect ─────┼─► a thin snapshot of each whole volume ─► resync ─► both whole: dropped
//! the kernel calls ─────┘                                             └─► source lost: it stays
//! ```
//! One task does it all, a step after the other, because LVM does too. Who waits for it waits for a
//! step that is never cut off: an LVM command killed halfway could leave a volume suspended.

mod give_up;
mod held;
mod restore;
mod rules;
mod worker;

use crate::status::Hub;
use crate::vms::fill::Fill;
use crate::vms::registry::Registry;
use hypervisor_glue::replication::{ReplicaSpec, ReplicaStatus, Replication};
use hypervisor_glue::volumes::Volumes;
use provisioning_protocol::ids::VmName;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use worker::Worker;

/// The kernel's resync target waits no longer than this for its copy. Writes of the other server's
/// guests wait with it; it would drop this server after 6.3 s (ko-count x timeout).
pub const HELPER_LIMIT: Duration = Duration::from_secs(3);
/// [`KeeperParts::patience`] of a server: one that may yet take over has better things to do in the
/// first seconds, and a path switch takes five.
pub const PATIENCE: Duration = Duration::from_secs(10);
const JOBS_MAX: usize = 64;

/// What the keeper works with.
#[derive(Clone)]
pub struct KeeperParts {
    /// The volumes below replication.
    pub volumes: Arc<dyn Volumes>,
    /// Replication.
    pub replication: Arc<dyn Replication>,
    /// Which volumes there are.
    pub registry: Arc<Registry>,
    /// Who is told.
    pub hub: Arc<Hub>,
    /// How full the pool is.
    pub fill: watch::Receiver<Fill>,
    /// Where it is kept up to when each volume holds everything.
    pub file: PathBuf,
    /// For so long a lost link may come back before anything is said or done about it.
    pub patience: Duration,
}

enum Job {
    /// Before this volume is connected.
    Connect(ReplicaSpec, oneshot::Sender<()>),
    /// The kernel is about to overwrite this one.
    Resync(u32, oneshot::Sender<()>),
    /// Put what is half copied back.
    Restore(oneshot::Sender<bool>),
    /// Give up what is held here.
    GiveUp(oneshot::Sender<bool>),
    /// Declare what was put back to be the newest.
    Adopt(VmName, oneshot::Sender<()>),
}

/// Handle of the keeper's task.
#[derive(Clone)]
pub struct Keeper {
    jobs: mpsc::Sender<Job>,
    seen: Arc<watch::Sender<Vec<ReplicaStatus>>>,
    put_back: Arc<Mutex<BTreeSet<VmName>>>,
}

impl Keeper {
    /// Starts the task.
    #[must_use]
    pub fn start(parts: KeeperParts) -> Self {
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let (seen, statuses) = watch::channel(Vec::new());
        let put_back = Arc::default();
        tokio::spawn(run(Worker::new(parts, Arc::clone(&put_back)), queue, statuses));
        Self { jobs, seen: Arc::new(seen), put_back }
    }

    /// The volumes as they are now.
    pub fn saw(&self, statuses: &[ReplicaStatus]) {
        self.seen.send_replace(statuses.to_vec());
    }

    /// Called before a volume is connected; returns when its copy is taken, or none can be.
    pub async fn before_connect(&self, spec: &ReplicaSpec) {
        let (done, wait) = oneshot::channel();
        if self.jobs.send(Job::Connect(spec.clone(), done)).await.is_ok() {
            drop(wait.await);
        }
    }

    /// Called when the kernel says that it is about to overwrite a volume, by its minor (`minor-7`);
    /// returns in time for an answer, whatever happens.
    pub async fn before_resync(&self, object: &str) {
        let Some(Ok(number)) = object.strip_prefix("minor-").map(str::parse) else { return };
        let (done, wait) = oneshot::channel();
        if self.jobs.try_send(Job::Resync(number, done)).is_ok() {
            drop(timeout(HELPER_LIMIT, wait).await);
        }
    }

    /// Puts each VM that is half copied back to its whole copies; whether all of it worked.
    pub async fn restore(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.jobs.send(Job::Restore(done)).await.is_ok() && wait.await.unwrap_or(false)
    }

    /// Gives up what is held here in favour of the other server's; whether all of it worked.
    pub async fn give_up(&self) -> bool {
        let (done, wait) = oneshot::channel();
        self.jobs.send(Job::GiveUp(done)).await.is_ok() && wait.await.unwrap_or(false)
    }

    /// Called before a VM's volumes are promoted, under the right to do so: what was put back counts as
    /// the newest from now on. Costs nothing if nothing was.
    pub async fn before_promote(&self, vm: &VmName) {
        if !self.put_back.lock().unwrap_or_else(PoisonError::into_inner).contains(vm) {
            return;
        }
        let (done, wait) = oneshot::channel();
        if self.jobs.send(Job::Adopt(vm.clone(), done)).await.is_ok() {
            drop(wait.await);
        }
    }
}

async fn run(
    mut worker: Worker,
    mut queue: mpsc::Receiver<Job>,
    mut statuses: watch::Receiver<Vec<ReplicaStatus>>,
) {
    loop {
        tokio::select! {
            biased;
            job = queue.recv() => match job {
                Some(Job::Connect(spec, done)) => {
                    worker.before_connect(&spec).await;
                    let _ = done.send(());
                }
                Some(Job::Resync(number, done)) => {
                    worker.before_resync(number).await;
                    let _ = done.send(());
                }
                Some(Job::Restore(done)) => {
                    let _ = done.send(worker.restore().await);
                }
                Some(Job::GiveUp(done)) => {
                    let _ = done.send(worker.give_up().await);
                }
                Some(Job::Adopt(vm, done)) => {
                    worker.adopt(&vm).await;
                    let _ = done.send(());
                }
                None => return,
            },
            changed = statuses.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = statuses.borrow_and_update().clone();
                worker.look(&now).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
