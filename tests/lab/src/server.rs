// SPDX-License-Identifier: Apache-2.0
//! One emulated server: firmware, disks, two network cards, watchdog, screen, claim stick.

use crate::accel::Accel;
use crate::artifacts::firmware;
use crate::channel::{Channel, Output, PORT_NAME};
use crate::emulator::Emulator;
use crate::net::{Mac, netdev_arg, parse_mac};
use crate::process::Child;
use crate::qmp::Qmp;
use crate::rundir::RunDir;
use crate::stick;
use crate::timeline::Timeline;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use provisioning_protocol::status::{LocalStatus, STATUS_PATH};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const LAB_UNIT: &str = include_str!("../guest/forecourt-lab.service");
const LAB_SCRIPT: &str = include_str!("../guest/forecourt-lab.sh");
const LAB_WANTS: &str = "[Unit]\nWants=forecourt-lab.service\n";
/// Sizes that servers in the field have, scaled down; the files are sparse.
const OS_DISK_BYTES: u64 = 16 << 30;
const DATA_DISK_BYTES: u64 = 20 << 30;

/// Between two looks at a server's status: each costs an emulated server some work.
const STATUS_PAUSE: Duration = Duration::from_millis(700);

/// For one command inside: an emulated server on a busy host may need seconds to start a shell.
const EXEC_LIMIT: Duration = Duration::from_secs(60);
/// For a boot: 30 s on an idle host, several minutes on a busy one; the server's own limits are 300.
pub const BOOT_LIMIT: Duration = Duration::from_secs(480);

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct Spec {
    /// `a` or `b`: also its port on both switches.
    pub name: &'static str,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How it is run.
    pub accel: Accel,
    /// What runs it.
    pub emulator: Emulator,
    /// The OS image.
    pub image: PathBuf,
    /// A third disk that holds somebody's files, which must never be touched.
    pub used_disk: Option<PathBuf>,
    /// Whether it has a watchdog.
    pub watchdog: bool,
}

/// A server; off until [`Server::power_on`].
pub struct Server {
    spec: Spec,
    dir: PathBuf,
    run: Arc<RunDir>,
    timeline: Timeline,
    power: Option<Power>,
}

struct Power {
    child: Child,
    qmp: Qmp,
    channel: Arc<Channel>,
}

/// The Ethernet address of a server's LAN card.
#[must_use]
pub fn lan_mac(name: &str) -> Mac {
    parse_mac(&mac_text(name, 1)).expect("made to be one")
}

fn mac_text(name: &str, card: u8) -> String {
    let number = name.bytes().next().unwrap_or(0) - b'a' + 10;
    format!("52:54:00:46:43:{number:x}{card:x}")
}

/// A status in one line, for messages.
#[must_use]
pub fn brief(status: &LocalStatus) -> String {
    let vms: Vec<String> = status
        .server
        .vms
        .iter()
        .map(|vm| format!("{} {:?} {}", vm.name, vm.phase, vm.detail))
        .collect();
    let pair = &status.server.pair;
    format!(
        "{:?} {:?} epoch {} ({}); VMs [{}]; problems [{}]; HQ \"{}\"",
        status.enrolment,
        pair.state,
        pair.epoch,
        pair.cause,
        vms.join(", "),
        status.server.problems.join("; "),
        status.hq_error
    )
}

impl Server {
    /// Makes the server's disks and stick.
    pub fn new(
        run: &Arc<RunDir>,
        timeline: &Timeline,
        spec: Spec,
        files: stick::Files,
    ) -> anyhow::Result<Self> {
        let dir = run.path().join(spec.name);
        std::fs::create_dir_all(&dir)?;
        let server =
            Self { spec, dir, run: Arc::clone(run), timeline: timeline.clone(), power: None };
        server.make_os_disk()?;
        File::create(server.data_disk())?.set_len(DATA_DISK_BYTES)?;
        std::fs::copy(firmware()?.1, server.dir.join("firmware.vars"))?;
        stick::write(&server.dir.join("stick.raw"), files)?;
        Ok(server)
    }

    /// The server's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.spec.name
    }

    /// The file behind the data disk, to be prepared while the server is off.
    #[must_use]
    pub fn data_disk(&self) -> PathBuf {
        self.dir.join("data.raw")
    }

    /// What the server wrote to its serial port, over all its boots.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.dir.join("serial.log")
    }

    /// The server's folder in the run: logs, disks, screenshots.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the OS image on the OS disk anew, as a replaced disk would have it.
    pub fn make_os_disk(&self) -> anyhow::Result<()> {
        let disk = self.dir.join("os.raw");
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(&self.spec.image)
            .arg(&disk)
            .status()?;
        if !copied.success() {
            bail!("copying {} failed", self.spec.image.display());
        }
        let file = File::options().write(true).open(&disk)?;
        let length = file.metadata()?.len();
        file.set_len(length.max(OS_DISK_BYTES))?;
        Ok(())
    }

    /// Puts a watchdog in, or takes it out; from the next power-on.
    pub fn set_watchdog(&mut self, present: bool) {
        self.spec.watchdog = present;
    }

    /// Switches the server on.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        if self.power.is_some() {
            bail!("server {} is on already", self.spec.name);
        }
        let log = self.dir.join("qemu.log");
        let emulator = &self.spec.emulator;
        let args = emulator.args.iter().cloned().chain(self.qemu_args()?);
        let name = format!("server {}", self.spec.name);
        for socket in ["qmp", "lab", "tty"] {
            std::fs::remove_file(self.socket(socket)).ok();
        }
        let mut child = Child::spawn(self.run.book(), &name, &log, &emulator.program, args)?;
        let qmp = Qmp::connect(&self.socket("qmp"), Duration::from_secs(10))
            .or_else(|error| child.check_alive().and(Err(error)))?;
        let channel = Arc::new(Channel::connect(&self.socket("lab"))?);
        self.power = Some(Power { child, qmp, channel });
        self.timeline.note(self.spec.name, "power on");
        Ok(())
    }

    /// Cuts the power: SIGKILL to the emulator. Returns when, in seconds since the run's start.
    pub fn kill(&mut self) -> f64 {
        let at_s = self.timeline.now_s();
        if let Some(mut power) = self.power.take() {
            power.child.kill();
            self.timeline.note_at(at_s, self.spec.name, "power cut");
        }
        at_s
    }

    /// Stops the whole machine, as a hang of the hardware would.
    pub fn freeze(&self) -> anyhow::Result<f64> {
        self.power()?.child.freeze();
        Ok(self.timeline.note(self.spec.name, "frozen"))
    }

    /// Lets a frozen machine go on.
    pub fn thaw(&self) -> anyhow::Result<f64> {
        self.power()?.child.thaw();
        Ok(self.timeline.note(self.spec.name, "goes on"))
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> anyhow::Result<f64> {
        self.power_mut()?.qmp.execute("system_reset", json!({}))?;
        Ok(self.timeline.note(self.spec.name, "reset"))
    }

    /// Presses the power button, which asks the system to shut down.
    pub fn press_power(&mut self) -> anyhow::Result<f64> {
        self.power_mut()?.qmp.execute("system_powerdown", json!({}))?;
        Ok(self.timeline.note(self.spec.name, "power button pressed"))
    }

    /// Waits until the machine has switched itself off.
    pub fn wait_off(&mut self, limit: Duration) -> anyhow::Result<()> {
        let power = self.power_mut()?;
        crate::wait::wait_for("the power to go off", limit, || Ok(power.child.has_ended()))?;
        self.power = None;
        self.timeline.note(self.spec.name, "off");
        Ok(())
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.power.is_some()
    }

    /// Fails when the emulator ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.power_mut()?.child.check_alive()
    }

    /// Takes a picture of the screen; a PNG file.
    pub fn screendump(&mut self, file: &Path) -> anyhow::Result<()> {
        let arguments = json!({ "filename": file.display().to_string(), "format": "png" });
        self.power_mut()?.qmp.execute("screendump", arguments).map(drop)
    }

    /// Types keys on the server's keyboard, in QEMU's names: `ret`, `f2`, `a`.
    pub fn send_keys(&mut self, keys: &[&str]) -> anyhow::Result<()> {
        for key in keys {
            let arguments = json!({ "keys": [{ "type": "qcode", "data": key }] });
            self.power_mut()?.qmp.execute("send-key", arguments)?;
        }
        Ok(())
    }

    /// Any QMP command.
    pub fn qmp(
        &mut self,
        command: &str,
        arguments: serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        self.power_mut()?.qmp.execute(command, arguments)
    }

    /// Runs a shell command inside, within a minute.
    pub fn exec(&self, command: &str) -> anyhow::Result<Output> {
        self.exec_for(command, EXEC_LIMIT)
    }

    /// Runs a shell command inside, at most `limit`.
    pub fn exec_for(&self, command: &str, limit: Duration) -> anyhow::Result<Output> {
        self.power()?
            .channel
            .exec(command, limit)
            .with_context(|| format!("Asking server {}", self.spec.name))
    }

    /// The lab channel of this power-on, to ask over it from another thread.
    pub fn channel(&self) -> anyhow::Result<Arc<Channel>> {
        Ok(Arc::clone(&self.power()?.channel))
    }

    /// What the agent says of itself and of the pair.
    pub fn status(&self) -> anyhow::Result<LocalStatus> {
        let text = self.exec(&format!("cat {STATUS_PATH}"))?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("{STATUS_PATH}: {text:?}"))
    }

    /// Waits until the agent's status fulfils a condition.
    pub fn wait_status<T>(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&LocalStatus) -> Option<T>,
    ) -> anyhow::Result<T> {
        let what = format!("server {}: {what}", self.spec.name);
        crate::wait::wait_every(&what, limit, STATUS_PAUSE, || {
            let status = self.status()?;
            condition(&status).map(Some).with_context(|| brief(&status))
        })
    }

    /// Waits until the lab's unit answers inside; returns when, since the run's start.
    pub fn wait_booted(&self, limit: Duration) -> anyhow::Result<f64> {
        self.power()?
            .channel
            .wait_ready(limit)
            .with_context(|| format!("Booting server {}: {}", self.name(), self.serial_tail()))?;
        Ok(self.timeline.note(self.spec.name, "booted"))
    }

    /// The end of the serial log, for messages.
    #[must_use]
    pub fn serial_tail(&self) -> String {
        crate::process::tail(&self.serial_log(), 2000)
    }

    /// Seconds to add to the server's clock to get this host's.
    pub fn clock_offset_s(&self) -> anyhow::Result<f64> {
        let before = crate::timeline::epoch_s();
        let text = self.exec("date +%s.%N")?.ok()?;
        let after = crate::timeline::epoch_s();
        Ok(f64::midpoint(before, after) - text.trim().parse::<f64>()?)
    }

    /// The journal of a unit in this boot, its last lines.
    pub fn journal(&self, unit: &str, lines: u32) -> anyhow::Result<String> {
        let command = format!("journalctl -b --no-pager -o short-monotonic -u {unit} -n {lines}");
        self.exec(&command)?.ok()
    }

    fn power(&self) -> anyhow::Result<&Power> {
        self.power.as_ref().with_context(|| format!("server {} is off", self.spec.name))
    }

    fn power_mut(&mut self) -> anyhow::Result<&mut Power> {
        self.power.as_mut().with_context(|| format!("server {} is off", self.spec.name))
    }

    fn socket(&self, what: &str) -> PathBuf {
        self.run.sockets().join(format!("{}.{what}", self.spec.name))
    }

    fn qemu_args(&self) -> anyhow::Result<Vec<String>> {
        let mut args: Vec<String> = self.spec.accel.args().map(str::to_owned).to_vec();
        let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        add("-name", format!("server-{}", self.spec.name));
        add("-machine", "q35,smm=off".to_owned());
        add("-uuid", format!("464f5245-434f-5552-5400-00000000000{}", self.spec.name));
        add("-smp", self.spec.accel.cpus().to_string());
        add("-m", self.spec.memory_mib.to_string());
        args.extend(["-nodefaults", "-no-user-config"].map(str::to_owned));
        self.add_firmware(&mut args)?;
        self.add_disks(&mut args);
        self.add_network(&mut args);
        self.add_watchdog(&mut args);
        self.add_channels(&mut args);
        Ok(args)
    }

    fn add_firmware(&self, args: &mut Vec<String>) -> anyhow::Result<()> {
        let (code, _) = firmware()?;
        let vars = self.dir.join("firmware.vars");
        for (unit, path, readonly) in [(0, code, "on"), (1, vars, "off")] {
            args.extend([
                "-drive".to_owned(),
                format!(
                    "if=pflash,unit={unit},format=raw,readonly={readonly},file={}",
                    path.display()
                ),
            ]);
        }
        let credentials = [
            ("systemd.extra-unit.forecourt-lab.service", LAB_UNIT),
            ("systemd.unit-dropin.sysinit.target~lab", LAB_WANTS),
            ("forecourt-lab.sh", LAB_SCRIPT),
        ];
        for (name, text) in credentials {
            args.extend([
                "-smbios".to_owned(),
                format!(
                    "type=11,value=io.systemd.credential.binary:{name}={}",
                    STANDARD.encode(text)
                ),
            ]);
        }
        Ok(())
    }

    fn add_disks(&self, args: &mut Vec<String>) {
        // Raw files: without a format layer above them, whatever the guest flushed or not lies in
        // the host's page cache and outlives a killed emulator, as a disk outlives a power cut.
        for (id, addr, boot) in [("os", 2, ",bootindex=1"), ("data", 3, "")] {
            let file = self.dir.join(format!("{id}.raw"));
            args.extend([
                "-drive".to_owned(),
                format!(
                    "if=none,id={id},format=raw,cache=unsafe,discard=unmap,file={}",
                    file.display()
                ),
                "-device".to_owned(),
                format!("virtio-blk-pci,drive={id},serial={id},addr={addr}{boot}"),
            ]);
        }
        if let Some(used) = &self.spec.used_disk {
            args.extend([
                "-drive".to_owned(),
                format!("if=none,id=used,format=raw,cache=unsafe,file={}", used.display()),
                "-device".to_owned(),
                "virtio-blk-pci,drive=used,serial=used,addr=0x6".to_owned(),
            ]);
        }
        let stick = self.dir.join("stick.raw");
        args.extend(
            [
                "-drive",
                &format!("if=none,id=stick,format=raw,file={}", stick.display()),
                "-device",
                "qemu-xhci,id=usb,addr=0x8",
                "-device",
                "usb-storage,drive=stick,bus=usb.0",
                "-device",
                "usb-kbd,bus=usb.0",
            ]
            .map(str::to_owned),
        );
    }

    fn add_network(&self, args: &mut Vec<String>) {
        // In PCI order: the first card is the LAN, the second the direct cable.
        for (card, (switch, addr)) in (1..).zip([("lan", 4), ("cable", 5)]) {
            args.extend([
                "-netdev".to_owned(),
                netdev_arg(self.run.sockets(), switch, self.spec.name, switch),
                "-device".to_owned(),
                format!(
                    "virtio-net-pci,netdev={switch},mac={},addr={addr},romfile=",
                    mac_text(self.spec.name, card)
                ),
            ]);
        }
    }

    fn add_watchdog(&self, args: &mut Vec<String>) {
        if self.spec.watchdog {
            args.extend(
                ["-device", "i6300esb,addr=0x9", "-action", "watchdog=reset"].map(str::to_owned),
            );
        }
    }

    fn add_channels(&self, args: &mut Vec<String>) {
        let (qmp, lab, tty) = (self.socket("qmp"), self.socket("lab"), self.socket("tty"));
        args.extend([
            "-display".to_owned(),
            "none".to_owned(),
            "-vga".to_owned(),
            "std".to_owned(),
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", qmp.display()),
            "-chardev".to_owned(),
            format!(
                "socket,id=tty,path={},server=on,wait=off,logfile={},logappend=on",
                tty.display(),
                self.serial_log().display()
            ),
            "-serial".to_owned(),
            "chardev:tty".to_owned(),
            "-chardev".to_owned(),
            format!("socket,id=lab,path={},server=on,wait=off", lab.display()),
            "-device".to_owned(),
            "virtio-serial-pci,addr=0xa".to_owned(),
            "-device".to_owned(),
            format!("virtserialport,chardev=lab,name={PORT_NAME}"),
        ]);
    }
}
