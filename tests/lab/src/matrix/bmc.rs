// SPDX-License-Identifier: Apache-2.0
//! Servers with BMCs: sushy-tools' Redfish service in front of the lab's own machines.

use super::round::{MINUTE, PAIR_LIMIT, Round};
use crate::gateway::{HOST_ADDRESS, free_port};
use crate::hq::finish;
use crate::process::Child;
use crate::rundir::RunDir;
use crate::scenario::Scenario;
use crate::site::{SITE, Site, VM};
use crate::wait::wait_for;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub const BMC: &[Scenario] = &[Scenario {
    name: "bmc-off",
    about: "the VM's server hangs and its BMC switches it off: the VM starts at once; then on again",
    run: bmc_off,
}];

/// From the BMC's second "Off" to QEMU running.
const STARTED_S_MAX: f64 = 8.0;
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../redfish");
/// Says how the machine is, and leaves word of each order.
const HOOK: &str = "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\ncd \"$(dirname \"$0\")\" || exit 1\n\
    if [ \"$1\" = state ]; then echo look >> looks; cat state; else echo \"$1\" >> orders; fi\n";

/// A server's BMC alone, whoever uses it; it ends when dropped.
pub struct Board {
    folder: PathBuf,
    port: u16,
    obeyed: usize,
    _service: Child,
}

impl Board {
    /// Starts one for a server that is on.
    pub fn start(run: &RunDir, name: &str) -> anyhow::Result<Self> {
        let folder = run.path().join(format!("bmc-{name}"));
        std::fs::create_dir_all(&folder)?;
        // An earlier one of this server may have left them.
        for past in ["orders", "looks"] {
            std::fs::remove_file(folder.join(past)).ok();
        }
        std::fs::write(folder.join("state"), "On\n")?;
        let hook = folder.join("hook");
        std::fs::write(&hook, HOOK)?;
        finish({
            let mut chmod = Command::new("chmod");
            chmod.arg("+x").arg(&hook);
            chmod
        })?;
        make_certificate(&folder)?;
        let python = finish(Command::new(Path::new(TESTS).join("python")))?;
        let port = free_port()?;
        let script = Path::new(TESTS).join("emulator.py");
        let arguments = [script, folder.clone(), port.to_string().into(), hook];
        let (log, python) = (folder.join("log"), PathBuf::from(python.trim()));
        let label = format!("BMC of server {name}");
        let service = Child::spawn(run.book(), &label, &log, &python, arguments)?;
        wait_for(&label, MINUTE, || {
            std::net::TcpStream::connect(("127.0.0.1", port))?;
            Ok(Some(()))
        })?;
        Ok(Self { folder, port, obeyed: 0, _service: service })
    }

    /// Its port on this host's loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it answers from now on to the question whether its server is on: `On` or `Off`.
    pub fn says(&self, state: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.folder.join("state"), format!("{state}\n"))?)
    }

    /// The orders that have come since.
    fn orders(&mut self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("orders")).unwrap_or_default();
        let new: Vec<String> = text.lines().skip(self.obeyed).map(str::to_owned).collect();
        self.obeyed += new.len();
        new
    }
}

/// A BMC that HQ knows.
pub struct Bmc(Board);

impl Bmc {
    /// Starts one for a server, and has HQ tell the other server of it.
    pub fn fit(site: &Site, name: &str) -> anyhow::Result<Self> {
        let board = Board::start(&site.run, name)?;
        let fingerprint = fingerprint(&board.folder)?;
        std::fs::write(board.folder.join("password"), "switch:it")?;
        let (slot, url) = (name.to_uppercase(), format!("https://{HOST_ADDRESS}:{}", board.port));
        let password = board.folder.join("password").display().to_string();
        let options = ["--url", &url, "--user", "fence", "--password-file", &password];
        let all = [&["site", "bmc", SITE, &slot], &options[..], &["--fingerprint", &fingerprint]];
        site.hq.cli(&all.concat())?;
        Ok(Self(board))
    }

    /// Waits until the other server has asked it how its machine is.
    pub fn wait_looked(&self) -> anyhow::Result<()> {
        wait_for("the other server to look at the BMC", 2 * MINUTE, || {
            Ok(self.0.folder.join("looks").exists().then_some(()))
        })
    }

    /// Its server has lost power and it has not.
    pub fn power_lost(&self) -> anyhow::Result<()> {
        self.0.says("Off")
    }

    /// Carries out orders that have come since.
    pub fn obey(&mut self, site: &mut Site, name: &str) -> anyhow::Result<()> {
        for order in self.0.orders() {
            site.timeline.note(name, format!("its BMC is told: {order}"));
            let server = site.server(name);
            if order == "ForceOff" {
                server.kill();
                self.0.says("Off")?;
            } else if order == "On" && !server.is_on() {
                server.power_on()?;
                self.0.says("On")?;
            }
        }
        Ok(())
    }

    pub fn remove(self, site: &Site, name: &str) -> anyhow::Result<()> {
        let slot = name.to_uppercase();
        site.hq.cli(&["site", "bmc", SITE, &slot, "--remove"]).map(drop)
    }
}

fn make_certificate(folder: &Path) -> anyhow::Result<()> {
    let [key, cert] = ["key.pem", "cert.pem"].map(|name| folder.join(name).display().to_string());
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    make.args(["-subj", "/CN=bmc", "-days", "30", "-keyout", &key, "-out", &cert]);
    finish(make).map(drop)
}

fn fingerprint(folder: &Path) -> anyhow::Result<String> {
    let mut read = Command::new("openssl");
    read.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(folder.join("cert.pem"));
    let text = finish(read)?;
    Ok(text.trim().split_once('=').context("No fingerprint")?.1.to_owned())
}

fn bmc_off(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (host, other) = (round.host, round.other);
    let mut bmc = Bmc::fit(round.site, host)?;
    bmc.wait_looked()?;
    let offset_s = round.site.server(other).clock_offset_s()?;
    round.site.server(host).freeze()?;
    round.fault("the VM's server stands still for good");
    let fault_s = round.site.timeline.now_s();
    let served = wait_for("the page on the other server", 4 * MINUTE, || {
        bmc.obey(round.site, host)?;
        Ok(round.acked_after(fault_s + 1.0).then_some(()))
    });
    served?;
    let events = round.site.server(other).status()?.events;
    let at_s = |code: &str| -> anyhow::Result<f64> {
        let event = events.iter().rev().find(|event| event.code == code);
        let event = event.with_context(|| format!("No event {code}"))?;
        let epoch_s = Duration::from_millis(event.at_ms).as_secs_f64() + offset_s;
        Ok(round.site.timeline.from_epoch_s(epoch_s))
    };
    let (fenced_s, started_s) = (at_s("fenced")?, at_s("vm_started")?);
    let text = format!(
        "confirmed off {:.1} s after the fault, QEMU runs {:.1} s after it; out for {:.1} s",
        fenced_s - fault_s,
        started_s - fault_s,
        round.gap_s()
    );
    round.site.timeline.note(VM, text);
    ensure!(started_s - fenced_s <= STARTED_S_MAX, "{:.1} s to the start", started_s - fenced_s);
    wait_for("the server to be switched on again", 2 * MINUTE, || {
        bmc.obey(round.site, host)?;
        Ok(round.site.server(host).is_on().then_some(()))
    })?;
    round.site.wait_paired(PAIR_LIMIT)?;
    ensure!(round.site.host_of_vm()? == other, "the VM runs on the server that hung");
    bmc.remove(round.site, host)?;
    round.end()
}
