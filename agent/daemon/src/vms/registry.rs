// SPDX-License-Identifier: Apache-2.0
//! The VMs whose volumes exist on this server, and which of them have once been in sync.

use crate::durable::file::{self, FileError};
use hypervisor_glue::replication::ReplicaSpec;
use provisioning_protocol::desired::VmAssignment;
use provisioning_protocol::ids::VmName;
use provisioning_protocol::template::{TemplateRef, VmSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BYTES_MAX: u64 = 64 * 1024;

/// A VM with volumes here.
#[derive(Debug, Clone)]
pub struct VmEntry {
    /// What HQ assigned.
    pub assignment: VmAssignment,
    /// The template its system disk was made from.
    pub template: TemplateRef,
    /// What that template runs.
    pub vm: VmSpec,
    /// Its volumes in the template's order.
    pub replicas: Vec<ReplicaSpec>,
    /// Whether all volumes were once connected and up to date on both servers.
    pub ready: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<VmName, VmEntry>,
    ready: BTreeSet<VmName>,
}

impl Registry {
    /// Reads which VMs were ready before. If that cannot be read, none was: they become ready
    /// again as soon as both servers are in sync.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let ready = match file::read_json(&path, "list of ready VMs", BYTES_MAX) {
            Ok(ready) => ready.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "list of ready VMs unusable");
                BTreeSet::new()
            }
        };
        Self { path, inner: Mutex::new(Inner { entries: BTreeMap::new(), ready }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or replaces a VM; `fresh` says that a volume of it was made just now.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn put(&self, mut entry: VmEntry, fresh: bool) -> Result<bool, FileError> {
        let name = entry.assignment.name.clone();
        let mut inner = self.lock();
        if fresh && inner.ready.remove(&name) {
            file::write_json(&self.path, "list of ready VMs", &inner.ready)?;
        }
        entry.ready = inner.ready.contains(&name);
        let ready = entry.ready;
        inner.entries.insert(name, entry);
        Ok(ready)
    }

    /// A VM's volumes are in sync on both servers for the first time.
    ///
    /// # Errors
    /// [`FileError`]; the VM is not marked then.
    pub fn mark_ready(&self, name: &VmName) -> Result<(), FileError> {
        let mut inner = self.lock();
        let mut ready = inner.ready.clone();
        ready.insert(name.clone());
        file::write_json(&self.path, "list of ready VMs", &ready)?;
        inner.ready = ready;
        if let Some(entry) = inner.entries.get_mut(name) {
            entry.ready = true;
        }
        Ok(())
    }

    /// One VM.
    #[must_use]
    pub fn get(&self, name: &VmName) -> Option<VmEntry> {
        self.lock().entries.get(name).cloned()
    }

    /// All VMs.
    #[must_use]
    pub fn all(&self) -> Vec<VmEntry> {
        self.lock().entries.values().cloned().collect()
    }

    /// VMs that were ready before this start of the agent and have not been set up since: they
    /// have volumes, whose state is not known yet.
    #[must_use]
    pub fn awaited(&self) -> usize {
        let inner = self.lock();
        inner.ready.iter().filter(|name| !inner.entries.contains_key(*name)).count()
    }

    /// The VM a DRBD resource belongs to.
    #[must_use]
    pub fn owner(&self, resource: &str) -> Option<VmName> {
        let inner = self.lock();
        let mut entries = inner.entries.values();
        entries
            .find(|entry| entry.replicas.iter().any(|replica| replica.resource() == resource))
            .map(|entry| entry.assignment.name.clone())
    }
}
