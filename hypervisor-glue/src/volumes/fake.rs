// SPDX-License-Identifier: Apache-2.0
//! Volumes as sparse files in a folder, for tests of what uses them.

use super::size::size_problem;
use super::{
    DiskReport, DiskVerdict, DiskVolume, Keep, KeptVolume, PoolUsage, RemovalOrder, RollBackOrder,
    TemplateVolume, VolumeId, Volumes,
};
use crate::error::{GlueError, Result};
use async_trait::async_trait;
use provisioning_protocol::ids::{DiskName, VmName};
use provisioning_protocol::template::TemplateRef;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

type Hook = Box<dyn Fn() + Send + Sync>;

/// [`Volumes`] in a folder.
#[derive(Clone)]
pub struct FakeVolumes {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
    after_keep: Arc<Mutex<Option<Hook>>>,
}

struct State {
    reports: Vec<DiskReport>,
    pool: bool,
    data_percent: f64,
    templates: Vec<TemplateVolume>,
    disks: Vec<DiskVolume>,
    kept: Vec<KeptVolume>,
    /// Disks put back, in order.
    put_back: Vec<Keep>,
}

impl FakeVolumes {
    /// One blank disk of 32 GiB; volumes become files in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let blank = DiskReport {
            path: PathBuf::from("/dev/fake0"),
            model: "Fake disk".to_owned(),
            serial: "FAKE0".to_owned(),
            size_bytes: 32 << 30,
            verdict: DiskVerdict::Blank,
        };
        let state = State {
            reports: vec![blank],
            pool: false,
            data_percent: 0.0,
            templates: Vec::new(),
            disks: Vec::new(),
            kept: Vec::new(),
            put_back: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self { dir: dir.to_owned(), state, after_keep: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake's state")
    }

    /// Replaces what a survey finds.
    pub fn set_survey(&self, reports: Vec<DiskReport>) {
        self.state().reports = reports;
    }

    /// Sets how full the pool says it is.
    pub fn set_data_percent(&self, percent: f64) {
        self.state().data_percent = percent;
    }

    /// What happens just after each copy was made.
    pub fn after_keep(&self, hook: impl Fn() + Send + Sync + 'static) {
        *self.after_keep.lock().expect("no test panics here") = Some(Box::new(hook));
    }

    /// The disks that were put back, in order, each by the copy used.
    #[must_use]
    pub fn put_back(&self) -> Vec<Keep> {
        self.state().put_back.clone()
    }

    fn file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let made = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        made.and_then(|file| file.set_len(bytes))
            .map_err(|err| GlueError::file("make", &path, err))?;
        Ok(path)
    }
}

impl State {
    fn usage(&self) -> PoolUsage {
        PoolUsage { size_bytes: 30 << 30, data_percent: self.data_percent, metadata_percent: 1.0 }
    }

    fn take(&mut self, disks: &[PathBuf]) -> Result<()> {
        for disk in disks {
            let found = self.reports.iter_mut().find(|report| &report.path == disk);
            match found {
                Some(report) if report.verdict == DiskVerdict::Blank => {
                    report.verdict = DiskVerdict::Ours;
                }
                _ => return Err(GlueError::refused("take disk", "it is not blank")),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Volumes for FakeVolumes {
    async fn survey(&self) -> Result<Vec<DiskReport>> {
        Ok(self.state().reports.clone())
    }

    async fn open_pool(&self) -> Result<Option<PoolUsage>> {
        let state = self.state();
        Ok(state.pool.then(|| state.usage()))
    }

    async fn create_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage> {
        let mut state = self.state();
        if state.pool {
            return Err(GlueError::refused("make the volume group", "there is one already"));
        }
        let half_made = state.reports.iter().any(|report| report.verdict == DiskVerdict::Ours);
        if disks.is_empty() && !half_made {
            return Err(GlueError::refused("make the volume group", "no blank disk is given"));
        }
        state.take(disks)?;
        state.pool = true;
        Ok(state.usage())
    }

    async fn extend_pool(&self, disks: &[PathBuf]) -> Result<PoolUsage> {
        let mut state = self.state();
        state.take(disks)?;
        Ok(state.usage())
    }

    async fn usage(&self) -> Result<PoolUsage> {
        Ok(self.state().usage())
    }

    async fn create_template(
        &self,
        template: &TemplateRef,
        size_bytes: u64,
    ) -> Result<TemplateVolume> {
        if let Some(problem) = size_problem(size_bytes) {
            return Err(GlueError::refused("make a template volume", problem));
        }
        let path = self.file(&format!("tpl-{}-{}", template.name, template.version), size_bytes)?;
        let mut state = self.state();
        if let Some(old) = state.templates.iter().find(|volume| volume.template == *template) {
            if old.sealed || old.size_bytes != size_bytes {
                return Err(GlueError::refused("make a template volume", "it is sealed already"));
            }
            return Ok(old.clone());
        }
        let volume = TemplateVolume { template: template.clone(), path, size_bytes, sealed: false };
        state.templates.push(volume.clone());
        Ok(volume)
    }

    async fn seal_template(&self, template: &TemplateRef) -> Result<()> {
        let mut state = self.state();
        let found = state.templates.iter_mut().find(|volume| volume.template == *template);
        let missing = || GlueError::Missing { what: format!("template volume {template}") };
        found.ok_or_else(missing)?.sealed = true;
        Ok(())
    }

    async fn templates(&self) -> Result<Vec<TemplateVolume>> {
        Ok(self.state().templates.clone())
    }

    async fn snapshot_template(
        &self,
        template: &TemplateRef,
        vm: &VmName,
        disk: &DiskName,
    ) -> Result<DiskVolume> {
        let source = self.state().templates.iter().find(|v| v.template == *template).cloned();
        let source = source.filter(|volume| volume.sealed).ok_or_else(|| {
            GlueError::refused("snapshot a template", format!("{template} is not sealed"))
        })?;
        if let Some(old) = self.state().disks.iter().find(|d| d.vm == *vm && d.disk == *disk) {
            return Ok(old.clone());
        }
        let path = self.dir.join(format!("vm-{vm}-{disk}"));
        std::fs::copy(&source.path, &path).map_err(|err| GlueError::file("copy", &path, err))?;
        let volume = DiskVolume {
            vm: vm.clone(),
            disk: disk.clone(),
            path,
            guest_bytes: source.size_bytes,
            template: Some(template.clone()),
        };
        self.state().disks.push(volume.clone());
        Ok(volume)
    }

    async fn create_data(
        &self,
        vm: &VmName,
        disk: &DiskName,
        guest_bytes: u64,
    ) -> Result<DiskVolume> {
        if let Some(problem) = size_problem(guest_bytes) {
            return Err(GlueError::refused("make a data volume", problem));
        }
        let path = self.file(&format!("vm-{vm}-{disk}"), guest_bytes)?;
        let mut state = self.state();
        if let Some(old) = state.disks.iter().find(|d| d.vm == *vm && d.disk == *disk) {
            return Ok(old.clone());
        }
        let volume =
            DiskVolume { vm: vm.clone(), disk: disk.clone(), path, guest_bytes, template: None };
        state.disks.push(volume.clone());
        Ok(volume)
    }

    async fn disks(&self) -> Result<Vec<DiskVolume>> {
        Ok(self.state().disks.clone())
    }

    async fn keep(&self, keep: &Keep, proven: bool) -> Result<()> {
        let kept = KeptVolume { keep: keep.clone(), whole: proven, used: false };
        self.state().kept.push(kept);
        if let Some(hook) = &*self.after_keep.lock().expect("no test panics here") {
            hook();
        }
        Ok(())
    }

    async fn prove_kept(&self, keep: &Keep) -> Result<()> {
        let mut state = self.state();
        let found = state.kept.iter_mut().find(|kept| kept.keep == *keep);
        let missing = || GlueError::Missing { what: keep.name() };
        found.ok_or_else(missing)?.whole = true;
        Ok(())
    }

    async fn kept(&self) -> Result<Vec<KeptVolume>> {
        Ok(self.state().kept.clone())
    }

    async fn begin_roll_back(&self, order: &RollBackOrder) -> Result<PathBuf> {
        let found = self.state().kept.iter().any(|kept| kept.keep == order.keep && kept.whole);
        let refused = || GlueError::refused("put a disk back", "there is no whole copy");
        found.then(|| self.dir.join(order.keep.name() + ".back")).ok_or_else(refused)
    }

    async fn finish_roll_back(&self, order: RollBackOrder) -> Result<()> {
        let mut state = self.state();
        let found = state.kept.iter_mut().find(|kept| kept.keep == order.keep && kept.whole);
        let refused = || GlueError::refused("put a disk back", "there is no whole copy");
        found.ok_or_else(refused)?.used = true;
        state.put_back.push(order.keep);
        Ok(())
    }

    async fn remove(&self, order: RemovalOrder) -> Result<()> {
        let mut state = self.state();
        let count = |state: &State| state.templates.len() + state.disks.len() + state.kept.len();
        let before = count(&state);
        match &order.volume {
            VolumeId::Template(named) => state.templates.retain(|v| v.template != *named),
            VolumeId::Disk(vm, disk) => {
                state.disks.retain(|v| v.vm != *vm || v.disk != *disk);
            }
            VolumeId::Kept(name) => state.kept.retain(|kept| kept.keep.name() != *name),
        }
        if count(&state) == before {
            return Err(GlueError::Missing { what: format!("volume {:?}", order.volume) });
        }
        Ok(())
    }
}
