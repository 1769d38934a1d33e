// SPDX-License-Identifier: Apache-2.0
//! Makes what HQ assigned exist on this server: template, volumes, replication.
//!
//! One task, one VM after the other; every step may be repeated. VMs whose volumes exist come
//! first, because they need neither HQ nor the peer.

use super::fill::Fill;
use super::registry::{Registry, VmEntry};
use crate::durable::file::FileError;
use crate::enrol::backoff::Backoff;
use crate::hq::client::error_chain;
use crate::pair::keep::Keeper;
use crate::status::{Concern, Hub};
use crate::templates::install::{InstallError, Templates};
use agent_core::Input;
use hypervisor_glue::GlueError;
use hypervisor_glue::replication::{
    MetadataOutcome, ReplicaSpec, Replication, replication_address,
};
use hypervisor_glue::volumes::{DiskVolume, Volumes};
use provisioning_catalogue::manifest::Manifest;
use provisioning_protocol::desired::{Desired, VmAssignment};
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::template::{DiskRole, TemplateRef};
use std::net::IpAddr;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{mpsc, watch};

/// Why a VM's volumes are not ready.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The template.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Volumes or replication.
    #[error(transparent)]
    Glue(#[from] GlueError),
    /// The list of ready VMs.
    #[error("Cannot keep the list of ready VMs")]
    Keep(#[from] FileError),
    /// No room for a new VM.
    #[error("The disks for VMs are nearly full: nothing new is put on them until a disk is added")]
    Full,
    /// HQ assigned something that does not fit the template.
    #[error("HQ assigned {got} volume numbers, the template has {want} disks")]
    Numbers {
        /// Assigned.
        got: usize,
        /// Needed.
        want: usize,
    },
}

/// The task.
pub struct Provisioner {
    /// Templates.
    pub templates: Arc<dyn Templates>,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// Replication.
    pub replication: Arc<dyn Replication>,
    /// Whether there is room for more.
    pub fill: watch::Receiver<Fill>,
    /// Copies from before a resync.
    pub keeper: Keeper,
    /// What exists.
    pub registry: Arc<Registry>,
    /// Status.
    pub hub: Arc<Hub>,
    /// The core.
    pub inputs: mpsc::Sender<Input>,
    /// Tells the replication monitor that there is something new.
    pub changed: Arc<tokio::sync::Notify>,
}

impl Provisioner {
    /// Runs for ever.
    pub async fn run(self, mut desired: watch::Receiver<Option<Desired>>) {
        super::pool::ensure(&self.volumes, &self.hub).await;
        let mut backoff = Backoff::capped(60);
        loop {
            let Some(now) = desired.borrow_and_update().clone() else {
                if desired.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if self.pass(&now).await {
                backoff.reset();
                if desired.changed().await.is_err() {
                    return;
                }
            } else {
                drop(tokio::time::timeout(backoff.next_wait(), desired.changed()).await);
            }
        }
    }

    /// One round over all VMs; whether all are set up.
    pub async fn pass(&self, desired: &Desired) -> bool {
        if let Err(err) = self.replication.load().await {
            let words = format!("Replication is not available: {}", error_chain(&err));
            self.hub.problem(Concern::Disks, "drbd", Some(words));
            return false;
        }
        self.hub.problem(Concern::Disks, "drbd", None);
        let disks = self.volumes.disks().await.unwrap_or_default();
        let mut vms: Vec<&VmAssignment> = desired.vms.iter().collect();
        vms.sort_by_key(|vm| !exists(vm, &disks));
        let mut all = true;
        for vm in vms {
            if self.registry.get(&vm.name).is_some_and(|entry| entry.assignment == *vm) {
                continue;
            }
            let done = self.vm(desired, vm, &disks).await;
            let object = vm.name.as_str();
            match done {
                Ok(()) => self.hub.problem(Concern::Vm, object, None),
                Err(err) => {
                    let text = error_chain(&err);
                    tracing::warn!(vm = object, error = text, "VM not set up");
                    self.hub.vm(&vm.name, &vm.template, VmPhase::Failed, &text);
                    let words = format!("VM {object} cannot be set up: {text}");
                    self.hub.problem(Concern::Vm, object, Some(words));
                    all = false;
                }
            }
        }
        all
    }

    async fn vm(
        &self,
        desired: &Desired,
        vm: &VmAssignment,
        disks: &[DiskVolume],
    ) -> Result<(), ProvisionError> {
        if !exists(vm, disks) && *self.fill.borrow() == Fill::Full {
            return Err(ProvisionError::Full);
        }
        let manifest = self.manifest(vm, disks).await?;
        let want = manifest.vm.disks.len();
        if vm.volumes.len() != want {
            return Err(ProvisionError::Numbers { got: vm.volumes.len(), want });
        }
        self.hub.vm(&vm.name, &manifest.template, VmPhase::Preparing, "making volumes");
        let (mut replicas, mut fresh) = (Vec::new(), false);
        for (disk, number) in manifest.vm.disks.iter().zip(&vm.volumes) {
            let volume = match disk.role {
                DiskRole::System => {
                    self.volumes.snapshot_template(&manifest.template, &vm.name, &disk.name).await?
                }
                DiskRole::Data => {
                    self.volumes.create_data(&vm.name, &disk.name, disk.size_bytes).await?
                }
            };
            let replica = spec(desired, volume, *number);
            fresh |= self.replication.create_metadata(&replica).await? == MetadataOutcome::Created;
            self.replication.attach(&replica).await?;
            self.keeper.before_connect(&replica).await;
            self.replication.connect(&replica).await?;
            replicas.push(replica);
        }
        let (template, spec) = (manifest.template.clone(), manifest.vm);
        let entry = VmEntry {
            assignment: vm.clone(),
            template: template.clone(),
            vm: spec,
            replicas,
            ready: false,
            counted: false,
        };
        let ready = self.registry.put(entry, fresh)?;
        if ready {
            let _ =
                self.inputs.send(Input::VolumesReady { vm: vm.name.clone(), ready: true }).await;
            self.hub.vm(&vm.name, &template, VmPhase::Standby, "");
        } else {
            let detail = "waiting for the other server's volumes";
            self.hub.vm(&vm.name, &template, VmPhase::Preparing, detail);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// The manifest of what the VM's system disk was made from, or of what is assigned.
    async fn manifest(
        &self,
        vm: &VmAssignment,
        disks: &[DiskVolume],
    ) -> Result<Manifest, ProvisionError> {
        let made_from = disks
            .iter()
            .find(|disk| disk.vm == vm.name && disk.template.is_some())
            .and_then(|disk| disk.template.clone());
        if let Some(old) = made_from.filter(|old| *old != vm.template) {
            self.note_upgrade(vm, &old);
            return Ok(self.templates.installed(&old).await?);
        }
        let (hub, name, template) = (self.hub.clone(), vm.name.clone(), vm.template.clone());
        let tell = move |words: &str| hub.vm(&name, &template, VmPhase::Fetching, words);
        Ok(self.templates.install(&vm.template, &tell).await?)
    }

    fn note_upgrade(&self, vm: &VmAssignment, old: &TemplateRef) {
        let words = format!(
            "VM {} runs {old}; HQ assigned {}. This agent does not exchange the template of an \
             existing VM yet",
            vm.name, vm.template
        );
        self.hub.problem(Concern::Template, vm.name.as_str(), Some(words));
    }
}

fn exists(vm: &VmAssignment, disks: &[DiskVolume]) -> bool {
    disks.iter().any(|disk| disk.vm == vm.name)
}

fn spec(desired: &Desired, volume: DiskVolume, number: u32) -> ReplicaSpec {
    let address = |slot| IpAddr::V6(replication_address(slot));
    ReplicaSpec {
        vm: volume.vm,
        disk: volume.disk,
        number,
        backing: volume.path,
        guest_bytes: volume.guest_bytes,
        own: address(desired.slot),
        peer: address(desired.slot.peer()),
        secret: desired.replication_secret.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::causes::Causes;
    use crate::pair::keep::KeeperParts;
    use crate::status::hub::Fixed;
    use crate::templates::install::Tell;
    use async_trait::async_trait;
    use hypervisor_glue::replication::FakeReplication;
    use hypervisor_glue::volumes::FakeVolumes;
    use provisioning_protocol::desired::Secret;
    use provisioning_protocol::ids::{DiskName, NodeSlot, SiteName, TemplateName, VmName};
    use provisioning_protocol::template::TemplateVersion;
    use std::sync::Mutex;
    use std::time::Duration;

    /// Knows no template; notes which were asked for.
    #[derive(Default)]
    struct NoTemplates(Mutex<Vec<TemplateRef>>);

    #[async_trait]
    impl Templates for NoTemplates {
        async fn installed(&self, template: &TemplateRef) -> Result<Manifest, InstallError> {
            self.install(template, &|_| {}).await
        }

        async fn install(
            &self,
            template: &TemplateRef,
            _tell: Tell<'_>,
        ) -> Result<Manifest, InstallError> {
            self.0.lock().unwrap().push(template.clone());
            Err(InstallError::Clock)
        }
    }

    fn assigned(name: &str) -> VmAssignment {
        let template = TemplateName::new(name).unwrap();
        VmAssignment {
            name: VmName::new(name).unwrap(),
            template: TemplateRef { name: template, version: TemplateVersion(1) },
            home: NodeSlot::A,
            volumes: vec![0],
            index: 0,
            variables: [].into(),
        }
    }

    #[tokio::test]
    async fn a_full_pool_takes_no_new_vm_and_keeps_those_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let causes = Causes::new(dir.path().join("causes"), &dir.path().join("link"));
        let hub = Arc::new(Hub::new(Fixed::default(), causes));
        let volumes = FakeVolumes::new(dir.path());
        let old = VmName::new("old").unwrap();
        volumes.create_data(&old, &DiskName::new("data").unwrap(), 1 << 20).await.unwrap();
        let templates = Arc::new(NoTemplates::default());
        let (fill, seen) = watch::channel(Fill::Full);
        let registry = Arc::new(Registry::open(dir.path().join("registry")).unwrap());
        let replication: Arc<dyn Replication> = Arc::new(FakeReplication::default());
        let keeper = Keeper::start(KeeperParts {
            volumes: Arc::new(volumes.clone()),
            replication: replication.clone(),
            registry: registry.clone(),
            hub: hub.clone(),
            fill: seen.clone(),
            file: dir.path().join("held.json"),
            patience: Duration::ZERO,
        });
        let provisioner = Provisioner {
            templates: templates.clone(),
            volumes: Arc::new(volumes.clone()),
            replication,
            fill: seen,
            keeper,
            registry,
            hub: hub.clone(),
            inputs: mpsc::channel(8).0,
            changed: Arc::default(),
        };
        let desired = Desired {
            revision: 1,
            server_time_s: 0,
            site: SiteName::new("oslo").unwrap(),
            slot: NodeSlot::A,
            roster: Vec::new(),
            replication_secret: Secret(String::new()),
            vms: vec![assigned("new"), assigned("old")],
            local_witness: None,
            peer_bmc: None,
            drained: None,
            rebalance: false,
        };
        let asked = || templates.0.lock().unwrap().drain(..).map(|t| t.name.to_string()).collect();
        assert!(!provisioner.pass(&desired).await);
        let names: Vec<String> = asked();
        assert_eq!(names, ["old"], "a template was fetched for a VM that has no room");
        let problems = hub.local().server.problems;
        let refused = |words: &String| words.contains("VM new") && words.contains("nearly full");
        assert!(problems.iter().any(refused), "{problems:?}");
        assert_eq!(volumes.disks().await.unwrap().len(), 1);
        fill.send_replace(Fill::Alarm);
        assert!(!provisioner.pass(&desired).await);
        let names: Vec<String> = asked();
        assert_eq!(names, ["old", "new"], "existing VMs first");
    }
}
