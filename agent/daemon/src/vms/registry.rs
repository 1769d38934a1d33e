// SPDX-License-Identifier: Apache-2.0
//! The VMs with volumes on this server, and which of them have once been in sync.
//!
//! A volume *counts* from the moment it was first in sync on both servers, for ever, across
//! reboots: until it is attached again it counts as missing, so that a server that has just
//! booted never passes for one that holds every write. A VM is *ready* once its volumes have
//! been in sync since they were made; a replaced disk makes it unready, and it still counts.

use crate::durable::file::{self, FileError};
use hypervisor_glue::replication::ReplicaSpec;
use provisioning_protocol::desired::VmAssignment;
use provisioning_protocol::ids::VmName;
use provisioning_protocol::template::{TemplateRef, VmSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

const BYTES_MAX: u64 = 64 * 1024;
const WHAT: &str = "list of replicated volumes";

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
    /// Whether its volumes have been in sync on both servers since they were made.
    pub ready: bool,
    /// Whether they have ever been.
    pub counted: bool,
}

/// What is kept of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    numbers: Vec<u32>,
    ready: bool,
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
    kept: BTreeMap<VmName, Kept>,
    wanted: Option<BTreeSet<VmName>>,
}

impl Registry {
    /// Reads which volumes count.
    ///
    /// # Errors
    /// [`FileError`] if that cannot be read: without it this server might take itself for up
    /// to date.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let kept = file::read_json(&path, WHAT, BYTES_MAX)?.unwrap_or_default();
        let inner = Inner { kept, ..Inner::default() };
        Ok(Self { path, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VMs HQ wants; others no longer count.
    pub fn want(&self, names: impl IntoIterator<Item = VmName>) {
        self.lock().wanted = Some(names.into_iter().collect());
    }

    /// Adds or replaces a VM; `fresh` says that a volume of it was made just now. Tells whether
    /// it is ready.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn put(&self, mut entry: VmEntry, fresh: bool) -> Result<bool, FileError> {
        let name = entry.assignment.name.clone();
        let mut inner = self.lock();
        if let Some(kept) = inner.kept.get(&name).filter(|kept| fresh && kept.ready).cloned() {
            let mut all = inner.kept.clone();
            all.insert(name.clone(), Kept { ready: false, ..kept });
            self.keep(&mut inner, all)?;
        }
        let kept = inner.kept.get(&name);
        entry.counted = kept.is_some();
        entry.ready = kept.is_some_and(|kept| kept.ready);
        let ready = entry.ready;
        inner.entries.insert(name, entry);
        Ok(ready)
    }

    /// A VM's volumes are in sync on both servers.
    ///
    /// # Errors
    /// [`FileError`]; the VM is not marked then.
    pub fn mark_ready(&self, name: &VmName) -> Result<(), FileError> {
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get(name) else { return Ok(()) };
        let numbers = entry.replicas.iter().map(|replica| replica.number).collect();
        let mut all = inner.kept.clone();
        all.insert(name.clone(), Kept { numbers, ready: true });
        self.keep(&mut inner, all)?;
        if let Some(entry) = inner.entries.get_mut(name) {
            (entry.ready, entry.counted) = (true, true);
        }
        Ok(())
    }

    fn keep(&self, inner: &mut Inner, all: BTreeMap<VmName, Kept>) -> Result<(), FileError> {
        file::write_json(&self.path, WHAT, &all)?;
        inner.kept = all;
        Ok(())
    }

    /// Numbers of all volumes that count, attached or not.
    #[must_use]
    pub fn counted(&self) -> Vec<u32> {
        let inner = self.lock();
        let wanted = |name: &VmName| inner.wanted.as_ref().is_none_or(|all| all.contains(name));
        let kept = inner.kept.iter().filter(|(name, _)| wanted(name));
        kept.flat_map(|(_, kept)| kept.numbers.iter().copied()).collect()
    }

    /// VMs whose volumes count and that have not been set up since the agent started: the state
    /// of their volumes is not known yet.
    #[must_use]
    pub fn awaited(&self) -> usize {
        let inner = self.lock();
        let wanted = |name: &VmName| inner.wanted.as_ref().is_none_or(|all| all.contains(name));
        let kept = inner.kept.keys().filter(|name| wanted(name));
        kept.filter(|name| !inner.entries.contains_key(*name)).count()
    }

    /// The VM a volume number belongs to, of those that count.
    #[must_use]
    pub fn owner_of(&self, number: u32) -> Option<VmName> {
        let inner = self.lock();
        let mut kept = inner.kept.iter();
        kept.find(|(_, kept)| kept.numbers.contains(&number)).map(|(name, _)| name.clone())
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use provisioning_protocol::desired::Secret;
    use provisioning_protocol::ids::{DiskName, NodeSlot, TemplateName};
    use provisioning_protocol::template::{CpuModel, GuestFirmware, TemplateVersion};

    /// A VM with one volume.
    pub(crate) fn entry(name: &str, number: u32) -> VmEntry {
        let vm = VmName::new(name).unwrap();
        let version = TemplateVersion(1);
        let template = TemplateRef { name: TemplateName::new("pos").unwrap(), version };
        let assignment = VmAssignment {
            name: vm.clone(),
            template: template.clone(),
            home: NodeSlot::A,
            volumes: vec![number],
            index: 0,
            variables: BTreeMap::new(),
        };
        let spec = VmSpec {
            firmware: GuestFirmware::Bios,
            cpu: CpuModel::default(),
            cpus: 1,
            memory_mib: 64,
            disks: Vec::new(),
            nics: 1,
            probe: None,
            variables: BTreeMap::new(),
        };
        let replica = ReplicaSpec {
            vm,
            disk: DiskName::new("system").unwrap(),
            number,
            backing: "/dev/null".into(),
            guest_bytes: 4096,
            own: [127, 0, 0, 1].into(),
            peer: [127, 0, 0, 2].into(),
            secret: Secret(String::new()),
        };
        VmEntry {
            assignment,
            template,
            vm: spec,
            replicas: vec![replica],
            ready: false,
            counted: false,
        }
    }

    #[test]
    fn a_volume_counts_after_a_reboot_before_it_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Registry::open(dir.path().join("volumes.json")).unwrap();
        let registry = open();
        assert!(!registry.put(entry("till", 3), true).unwrap());
        assert!(registry.counted().is_empty(), "one in the making does not count");
        registry.mark_ready(&VmName::new("till").unwrap()).unwrap();
        let registry = open();
        assert_eq!(registry.counted(), [3]);
        assert!(registry.put(entry("till", 3), false).unwrap(), "it was ready before");
        registry.want([VmName::new("other").unwrap()]);
        assert!(registry.counted().is_empty(), "HQ no longer wants it");
    }

    #[test]
    fn a_replaced_disk_is_not_ready_but_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Registry::open(dir.path().join("volumes.json")).unwrap();
        let registry = open();
        registry.put(entry("till", 3), true).unwrap();
        registry.mark_ready(&VmName::new("till").unwrap()).unwrap();
        assert!(!open().put(entry("till", 3), true).unwrap());
        let registry = open();
        assert!(!registry.put(entry("till", 3), false).unwrap(), "nor after another restart");
        assert_eq!(registry.counted(), [3]);
        std::fs::write(dir.path().join("volumes.json"), b"torn").unwrap();
        assert!(Registry::open(dir.path().join("volumes.json")).is_err());
    }
}
