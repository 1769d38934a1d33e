// SPDX-License-Identifier: Apache-2.0
//! VMs as transient systemd units, controlled over QMP.

use super::halt::{ended, halted};
use super::live::Arrivals;
use super::qemu::{OVMF_VARS, Places, command_line};
use super::qmp::Qmp;
use super::unit::{Grant, Properties, SEED, properties};
use super::{
    Accel, RunningVm, StopOutcome, VmLaunch, VmState, Vms, disks, probe, seed, taps, unit_name,
};
use crate::command::{CommandRunner, HostRunner};
use crate::error::{GlueError, Result};
use crate::network::BRIDGE;
use async_trait::async_trait;
use provisioning_protocol::ids::VmName;
use provisioning_protocol::template::GuestFirmware;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy};

const QMP_LIMIT: Duration = Duration::from_secs(3);
/// `stop` is told at once, or waits for frozen disks.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);
/// A stopped process stands still as soon as its threads leave the guest.
const HALT_LIMIT: Duration = Duration::from_secs(1);
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long systemd may take to put an earlier run away, or to fork.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);
/// A guest that was just booting, or boots instead of switching off, does not heed its power button.
const PRESS_AGAIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
const SIGCONT: i32 = Signal::CONT.as_raw();
const SIGSTOP: i32 = Signal::STOP.as_raw();
const UNIT_PREFIX: &str = "forecourt-vm-";

/// [`Vms`] of this server.
pub struct SystemdVms {
    pub(super) manager: ManagerProxy<'static>,
    connection: zbus::Connection,
    runner: Arc<dyn CommandRunner>,
    qemu: String,
    run: PathBuf,
    state: PathBuf,
    credentials: PathBuf,
    loads: Mutex<BTreeMap<VmName, Arc<Load>>>,
    pub(super) arrived: Arrivals,
}

/// Who may load, start or discard a VM's QEMU, one at a time; inside: what it was loaded for.
pub(super) type Load = tokio::sync::Mutex<Option<Loaded>>;

#[derive(PartialEq, Eq)]
pub(super) struct Loaded {
    launch: VmLaunch,
    /// Bytes of each disk.
    sizes: Vec<u64>,
    /// The ticket of the memory it waits for.
    ticket: Option<u64>,
}

impl SystemdVms {
    /// Connects to this server's systemd.
    ///
    /// # Errors
    /// [`GlueError::Bus`] if the system bus cannot be reached.
    pub async fn connect() -> Result<Self> {
        Self::with_runner(Arc::new(HostRunner)).await
    }

    /// The same, running other programs (`ip`, the marker guest) through this runner.
    ///
    /// # Errors
    /// [`GlueError::Bus`] if the system bus cannot be reached.
    pub async fn with_runner(runner: Arc<dyn CommandRunner>) -> Result<Self> {
        let connection = zbus::Connection::system().await.map_err(|err| bus("connect", &err))?;
        let manager =
            ManagerProxy::new(&connection).await.map_err(|err| bus("reach systemd", &err))?;
        Ok(Self {
            manager,
            connection,
            runner,
            qemu: "/usr/bin/qemu-system-x86_64".to_owned(),
            run: "/run".into(),
            state: "/var/lib".into(),
            credentials: "/run/credentials".into(),
            loads: Mutex::default(),
            arrived: Arrivals::default(),
        })
    }

    pub(super) fn socket(&self, vm: &VmName, name: &str) -> PathBuf {
        self.run.join(runtime_dir(vm)).join(name)
    }

    fn qmp_socket(&self, vm: &VmName) -> PathBuf {
        self.socket(vm, "qmp.sock")
    }

    /// There while a VM's QEMU waits for its memory or has it, and was not started.
    fn receiving_file(&self, vm: &VmName) -> PathBuf {
        self.run.join("forecourt/vm-receiving").join(vm.as_str())
    }

    fn mark_receiving(&self, vm: &VmName, receiving: bool) -> Result<()> {
        let file = self.receiving_file(vm);
        let made = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let done = match receiving {
            true => made.and_then(|()| std::fs::write(&file, [])),
            false => match std::fs::remove_file(&file) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err),
                _ => Ok(()),
            },
        };
        done.map_err(|err| GlueError::file("write", &file, err))
    }

    pub(super) async fn qmp(&self, vm: &VmName) -> Result<Qmp> {
        // QEMU talks to one at a time.
        self.arrived.forget(vm);
        Qmp::connect(&self.qmp_socket(vm), QMP_LIMIT).await
    }

    /// QEMU's process id, while the unit is there and not on its way out.
    pub(super) async fn main_pid(&self, vm: &VmName) -> Result<Option<u32>> {
        // GetUnit answers only for what is loaded; collected units are gone.
        let Ok(path) = self.manager.get_unit(unit_name(vm)).await else { return Ok(None) };
        let operation = format!("ask for {}", unit_name(vm));
        let service = ServiceProxy::builder(&self.connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .map_err(|err| bus(&operation, &err))?;
        // A process that has ended may not have been put away by systemd yet.
        let lives = |pid: &u32| *pid != 0 && !ended(Path::new("/proc"), *pid);
        Ok(service.main_pid().await.ok().filter(lives))
    }

    async fn start_unit(&self, launch: &VmLaunch, properties: Properties) -> Result<()> {
        let name = unit_name(&launch.name);
        // A failed earlier run may still be loaded; there is mostly none.
        let _ = self.manager.reset_failed_unit(name.clone()).await;
        let until = Instant::now() + LEFTOVER_LIMIT;
        loop {
            let (name, mode) = (name.clone(), "fail".to_owned());
            let properties = properties.clone();
            let start =
                self.manager.start_transient_unit(name.clone(), mode, properties, Vec::new());
            match start.await {
                Ok(_) => return Ok(()),
                // An earlier run is still being put away.
                Err(err) if is_leftover(&err) && Instant::now() < until => {
                    tokio::time::sleep(POLL).await;
                }
                Err(err) => return Err(bus(&format!("start {name}"), &err)),
            }
        }
    }

    /// Waits until QEMU answers, or its unit is gone.
    async fn answers(&self, vm: &VmName) -> Result<RunningVm> {
        let (started, until) = (Instant::now(), Instant::now() + START_LIMIT);
        let mut seen = false;
        loop {
            let pid = self.main_pid(vm).await?;
            seen |= pid.is_some() || started.elapsed() > LEFTOVER_LIMIT;
            if let Some(pid) = pid
                && let Ok(mut qmp) = self.qmp(vm).await
            {
                qmp.execute("query-status", None).await?;
                return Ok(RunningVm { name: vm.clone(), pid });
            }
            if seen && pid.is_none() {
                return Err(GlueError::Bus {
                    operation: format!("start VM {vm}"),
                    detail: "QEMU ended at once; the journal says why".to_owned(),
                });
            }
            if Instant::now() >= until {
                let what = format!("the start of VM {vm}");
                return Err(GlueError::Timeout { what, limit: START_LIMIT });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn gone_within(&self, vm: &VmName, limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        loop {
            if self.main_pid(vm).await?.is_none() {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A copy of OVMF's variables, made at the first start and kept.
    fn firmware_variables(&self, launch: &VmLaunch) -> Result<PathBuf> {
        // With a dynamic user the folder itself is below `private`; the unit sees it here.
        let seen = self.state.join(state_dir(&launch.name)).join("vars.fd");
        if launch.firmware == GuestFirmware::Uefi {
            let dir = self.state.join("private").join(state_dir(&launch.name));
            let file = dir.join("vars.fd");
            if !file.exists() {
                let new = dir.join("vars.fd.new");
                private_dir(&self.state.join("private"))
                    .and_then(|()| std::fs::create_dir_all(&dir))
                    .and_then(|()| std::fs::copy(OVMF_VARS, &new))
                    .and_then(|_| std::fs::rename(&new, &file))
                    .map_err(|err| GlueError::file("make", &file, err))?;
            }
        }
        Ok(seen)
    }

    /// The index a running VM was started with: its taps are named after it.
    fn index_of(&self, vm: &VmName) -> Option<u32> {
        let text = std::fs::read_to_string(self.index_file(vm)).ok()?;
        text.trim().parse().ok()
    }

    fn index_file(&self, vm: &VmName) -> PathBuf {
        self.run.join("forecourt/vm-index").join(vm.as_str())
    }

    fn remember_index(&self, launch: &VmLaunch) -> Result<()> {
        let file = self.index_file(&launch.name);
        file.parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&file, launch.index.to_string()))
            .map_err(|err| GlueError::file("write", &file, err))
    }

    pub(super) fn load_of(&self, vm: &VmName) -> Arc<Load> {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        loads.entry(vm.clone()).or_default().clone()
    }

    /// Has a QEMU loaded for exactly this launch.
    async fn load(
        &self,
        launch: &VmLaunch,
        ticket: Option<u64>,
        loaded: &mut Option<Loaded>,
    ) -> Result<RunningVm> {
        let name = &launch.name;
        let wanted = Loaded { launch: launch.clone(), sizes: disks::sizes(&launch.disks)?, ticket };
        if let Some(pid) = self.main_pid(name).await? {
            match self.state(name).await? {
                VmState::Prepared if loaded.as_ref() == Some(&wanted) => {
                    return Ok(RunningVm { name: name.clone(), pid });
                }
                VmState::Prepared | VmState::Absent => self.kill(name).await?,
                VmState::Running | VmState::Stopped(_) | VmState::Silent => {
                    let operation = format!("start VM {name}");
                    return Err(GlueError::refused(operation, "it runs here already"));
                }
            }
        }
        *loaded = None;
        let properties = self.unit(launch, &wanted)?;
        self.remember_index(launch)?;
        self.mark_receiving(name, ticket.is_some())?;
        taps::create(&*self.runner, BRIDGE, launch.index, launch.nics).await?;
        self.start_unit(launch, properties).await?;
        let running = self.answers(name).await?;
        if ticket.is_some() {
            self.open_to_memory(name).await?;
        }
        *loaded = Some(wanted);
        Ok(running)
    }

    fn unit(&self, launch: &VmLaunch, wanted: &Loaded) -> Result<Properties> {
        let refuse = |reason| GlueError::refused(format!("start VM {}", launch.name), reason);
        let seed = seed::disk(&launch.seed).map_err(refuse)?;
        let vars = self.firmware_variables(launch)?;
        let vhost = Path::new("/dev/vhost-net").exists();
        let places = Places {
            qemu: &self.qemu,
            qmp: &self.qmp_socket(&launch.name),
            seed: &self.credentials.join(unit_name(&launch.name)).join(SEED),
            vars: &vars,
            vhost,
            receives: wanted.ticket.is_some(),
        };
        let grant = Grant {
            command: command_line(launch, &wanted.sizes, &places),
            seed,
            runtime_dir: &runtime_dir(&launch.name),
            state_dir: &state_dir(&launch.name),
            vhost,
        };
        properties(launch, grant)
    }

    /// Gives a loaded QEMU its volumes and lets its vCPUs run; then runs these commands, too.
    pub(super) async fn release(
        &self,
        qmp: &mut Qmp,
        launch: &VmLaunch,
        then: Vec<(&'static str, serde_json::Value)>,
    ) -> Result<()> {
        disks::hand_over(qmp, &launch.disks).await?;
        self.mark_receiving(&launch.name, false)?;
        qmp.execute("cont", None).await?;
        if let Err(err) = qmp.execute_all(then).await {
            tracing::warn!(vm = %launch.name, error = crate::error::error_chain(&err), "the VM runs, but");
        }
        Ok(())
    }

    async fn signal(&self, vm: &VmName, signal: i32) -> Result<()> {
        let sent = self.manager.kill_unit(unit_name(vm), "main".to_owned(), signal).await;
        sent.map_err(|err| bus(&format!("send signal {signal} to VM {vm}"), &err))
    }

    /// Stops QEMU as a process, and waits until it stands still.
    pub(super) async fn halt(&self, vm: &VmName) -> Result<()> {
        let Some(pid) = self.main_pid(vm).await? else {
            return Err(GlueError::refused(format!("pause VM {vm}"), "it does not run here"));
        };
        self.signal(vm, SIGSTOP).await?;
        let until = Instant::now() + HALT_LIMIT;
        while !stands_still(pid) {
            if Instant::now() >= until {
                let what = format!("VM {vm} to stand still");
                return Err(GlueError::Timeout { what, limit: HALT_LIMIT });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    pub(super) async fn remove_taps(&self, vm: &VmName) -> Result<()> {
        match self.index_of(vm) {
            Some(index) => taps::remove(&*self.runner, index).await,
            None => Ok(()),
        }
    }
}

/// A process that cannot be looked at counts as running.
fn stands_still(pid: u32) -> bool {
    halted(Path::new("/proc"), pid).unwrap_or(false)
}

fn is_leftover(err: &zbus::Error) -> bool {
    matches!(err, zbus::Error::MethodError(name, ..)
        if name.as_str() == "org.freedesktop.systemd1.UnitExists")
}

fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn runtime_dir(vm: &VmName) -> String {
    format!("forecourt/vm/{vm}")
}

fn state_dir(vm: &VmName) -> String {
    format!("forecourt-vm/{vm}")
}

pub(super) fn bus(operation: &str, err: &zbus::Error) -> GlueError {
    let detail = err.to_string().chars().take(300).collect();
    GlueError::Bus { operation: operation.to_owned(), detail }
}

fn state_of(status: &Value) -> VmState {
    match status.get("status").and_then(Value::as_str) {
        Some("running") => VmState::Running,
        Some("prelaunch" | "inmigrate") => VmState::Prepared,
        Some(other) => VmState::Stopped(other.chars().take(40).collect()),
        None => VmState::Silent,
    }
}

#[async_trait]
impl Vms for SystemdVms {
    async fn probe_accel(&self) -> Result<Accel> {
        // What was proved in this boot of the server stays true: a restarted agent is in a hurry.
        let proved = self.run.join("forecourt/kvm-proved");
        if proved.exists() {
            return Ok(Accel::Kvm);
        }
        let dir = self.run.join("forecourt/probe");
        let found = probe::probe(&*self.runner, &self.qemu, Path::new("/dev/kvm"), &dir).await?;
        if found == Accel::Kvm {
            std::fs::write(&proved, []).map_err(|err| GlueError::file("write", &proved, err))?;
        }
        Ok(found)
    }

    async fn prepare(&self, launch: &VmLaunch) -> Result<()> {
        let load = self.load_of(&launch.name);
        let running = self.load(launch, None, &mut *load.lock().await).await?;
        tracing::info!(vm = %launch.name, pid = running.pid, "VM prepared");
        Ok(())
    }

    async fn receive(&self, launch: &VmLaunch, ticket: u64) -> Result<()> {
        let load = self.load_of(&launch.name);
        let running = self.load(launch, Some(ticket), &mut *load.lock().await).await?;
        tracing::info!(vm = %launch.name, pid = running.pid, "QEMU waits for a VM's memory");
        Ok(())
    }

    async fn fill(&self, vm: &VmName, ticket: u64, wire: TcpStream) -> Result<()> {
        let load = self.load_of(vm);
        let waits = load.lock().await.as_ref().is_some_and(|it| it.ticket == Some(ticket));
        if !waits {
            let operation = format!("take the memory of VM {vm}");
            return Err(GlueError::refused(operation, "no QEMU waits for it"));
        }
        self.carry_in(vm, wire).await?;
        // As long as this takes nobody starts or discards the VM.
        let loaded = load.lock().await;
        if loaded.as_ref().is_some_and(|it| it.ticket == Some(ticket)) {
            self.keep_ready(vm, ticket).await?;
        }
        Ok(())
    }

    async fn hand(&self, vm: &VmName, wire: TcpStream, off: watch::Receiver<bool>) -> Result<bool> {
        self.send_memory(vm, wire, off).await
    }

    async fn discard(&self, vm: &VmName) -> Result<()> {
        let load = self.load_of(vm);
        let mut loaded = load.lock().await;
        *loaded = None;
        match self.state(vm).await? {
            VmState::Prepared => self.kill(vm).await,
            _ => Ok(()),
        }
    }

    async fn start(&self, launch: &VmLaunch, resume: Option<u64>) -> Result<RunningVm> {
        let load = self.load_of(&launch.name);
        let mut loaded = load.lock().await;
        if let Some(ticket) = resume
            && loaded.as_ref().is_some_and(|it| it.ticket == resume)
        {
            *loaded = None;
            match self.go_on(launch, ticket).await {
                Ok(running) => {
                    tracing::info!(vm = %launch.name, pid = running.pid, "VM goes on");
                    return Ok(running);
                }
                Err(err) => {
                    tracing::warn!(vm = %launch.name, error = crate::error::error_chain(&err), "VM boots");
                    self.kill(&launch.name).await?;
                }
            }
        }
        let running = self.load(launch, None, &mut loaded).await?;
        *loaded = None;
        let released =
            async { self.release(&mut self.qmp(&launch.name).await?, launch, Vec::new()).await };
        if let Err(err) = released.await {
            // Half started is neither: what is left must not run later.
            self.kill(&launch.name).await?;
            return Err(err);
        }
        tracing::info!(vm = %launch.name, pid = running.pid, accel = ?launch.accel, "VM started");
        Ok(running)
    }

    async fn running(&self) -> Result<Vec<RunningVm>> {
        let pattern = vec![format!("{UNIT_PREFIX}*.service")];
        let units = self
            .manager
            .list_units_by_patterns(Vec::new(), pattern)
            .await
            .map_err(|err| bus("list VMs", &err))?;
        let mut found = Vec::new();
        for unit in units {
            let name = unit.0.strip_prefix(UNIT_PREFIX).and_then(|n| n.strip_suffix(".service"));
            let Some(Ok(name)) = name.map(VmName::new) else { continue };
            if let Some(pid) = self.main_pid(&name).await? {
                found.push(RunningVm { name, pid });
            }
        }
        Ok(found)
    }

    async fn stop(&self, vm: &VmName, limit: Duration) -> Result<StopOutcome> {
        if self.main_pid(vm).await?.is_none() {
            return Ok(StopOutcome::WasAbsent);
        }
        let until = Instant::now() + limit;
        loop {
            let asked = async { self.qmp(vm).await?.execute("system_powerdown", None).await };
            if let Err(err) = asked.await {
                tracing::warn!(%vm, error = %crate::error::error_chain(&err), "power button not heard");
            }
            let left = until.saturating_duration_since(Instant::now());
            if self.gone_within(vm, left.min(PRESS_AGAIN)).await? {
                self.remove_taps(vm).await?;
                return Ok(StopOutcome::Clean);
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.kill(vm).await?;
        Ok(StopOutcome::Killed)
    }

    async fn kill(&self, vm: &VmName) -> Result<()> {
        self.end(vm).await?;
        self.remove_taps(vm).await
    }

    async fn tidy(&self, vm: &VmName) -> Result<()> {
        self.remove_leftovers(vm).await
    }

    async fn pause(&self, vm: &VmName) -> Result<()> {
        let asked = async {
            let mut qmp = Qmp::connect(&self.qmp_socket(vm), PAUSE_LIMIT).await?;
            qmp.execute_or_event("stop", "STOP").await
        };
        match asked.await {
            Ok(()) => Ok(()),
            Err(err) => {
                tracing::info!(%vm, error = %crate::error::error_chain(&err), "halting QEMU");
                self.halt(vm).await
            }
        }
    }

    async fn resume(&self, vm: &VmName) -> Result<()> {
        if let Some(pid) = self.main_pid(vm).await?
            && stands_still(pid)
        {
            self.signal(vm, SIGCONT).await?;
        }
        self.qmp(vm).await?.execute("cont", None).await.map(drop)
    }

    async fn set_link(&self, vm: &VmName, up: bool) -> Result<()> {
        match self.index_of(vm) {
            Some(index) => taps::set(&*self.runner, index, up).await,
            None => Ok(()),
        }
    }

    async fn state(&self, vm: &VmName) -> Result<VmState> {
        let Some(pid) = self.main_pid(vm).await? else { return Ok(VmState::Absent) };
        if stands_still(pid) {
            return Ok(VmState::Stopped("halted".to_owned()));
        }
        let asked = async { self.qmp(vm).await?.execute("query-status", None).await };
        match asked.await {
            // Memory that has come over is not yet a VM.
            Ok(_) if self.receiving_file(vm).exists() => Ok(VmState::Prepared),
            Ok(status) => Ok(state_of(&status)),
            Err(GlueError::Timeout { .. }) => Ok(VmState::Silent),
            Err(_) if self.main_pid(vm).await?.is_none() => Ok(VmState::Absent),
            Err(_) => Ok(VmState::Silent),
        }
    }

    async fn console_tail(&self, vm: &VmName) -> Result<String> {
        let arguments = json!({ "device": "console", "size": super::qemu::CONSOLE_BYTES });
        let answer = self.qmp(vm).await?.execute("ringbuf-read", Some(arguments)).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}
