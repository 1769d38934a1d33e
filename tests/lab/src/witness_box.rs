// SPDX-License-Identifier: Apache-2.0
//! The small box on the site's LAN that witnesses instead of HQ: `forecourt-witness` on this host's
//! loopback, which servers reach through the gateway. HQ falls silent by being killed, so that the
//! box stays in reach.

use crate::gateway::{HOST_ADDRESS, free_port};
use crate::hq::finish;
use crate::process::Child;
use crate::site::{SITE, Site, is_paired};
use crate::wait::wait_for;
use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Servers hear of the box with their next report, and move the tie-break by agreement.
const ASKED_LIMIT: Duration = Duration::from_secs(180);

/// A running box; it ends when dropped.
pub struct WitnessBox {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl WitnessBox {
    /// Has HQ let a box in, and starts it.
    pub fn fit(site: &Site) -> anyhow::Result<Self> {
        let program = site.artifacts.bin_dir.join("forecourt-witness");
        ensure!(program.is_file(), "{} is missing; run `cargo xtask build`", program.display());
        let (folder, port) = (site.run.path().join("witness-box"), free_port()?);
        std::fs::create_dir_all(&folder)?;
        let address = format!("{HOST_ADDRESS}:{port}");
        let claim = site.hq.cli_json(&["witness", "box", SITE, "--address", &address])?;
        let word = |name: &str| claim[name].as_str().context("HQ's claim for a box lacks a word");
        let mut enrol = Command::new(&program);
        enrol.arg("enrol").arg("--dir").arg(&folder).args(["--hq", &site.hq.url()]);
        enrol.args(["--ca-sha256", word("ca_sha256")?, "--code", word("code")?]);
        finish(enrol)?;
        let mut witness = Self { program, folder, port, child: None };
        witness.start(site)?;
        Ok(witness)
    }

    /// Starts the box, with whatever its folder holds.
    pub fn start(&mut self, site: &Site) -> anyhow::Result<()> {
        let listen = format!("127.0.0.1:{}", self.port);
        let folder = self.folder.display().to_string();
        let log = self.folder.join("log");
        let args = ["run", "--dir", &folder, "--listen", &listen].map(str::to_owned);
        let child = Child::spawn(site.run.book(), "witness box", &log, &self.program, args)?;
        wait_for("the witness box to listen", Duration::from_secs(20), || {
            std::net::TcpStream::connect(&listen)?;
            Ok(Some(()))
        })?;
        self.child = Some(child);
        site.timeline.note("box", format!("listens on {listen}"));
        Ok(())
    }

    /// Cuts its power.
    pub fn kill(&mut self, site: &Site) {
        if let Some(mut child) = self.child.take() {
            child.kill();
            site.timeline.note("box", "power cut");
        }
    }

    /// Waits until both servers say that the box has the tie-break.
    pub fn wait_asked(&self, site: &Site) -> anyhow::Result<()> {
        for server in [&site.a, &site.b] {
            server.wait_status("the tie-break at the witness box", ASKED_LIMIT, |status| {
                let asked = status.server.pair.cause.contains("witness on site says");
                (is_paired(status) && asked).then_some(())
            })?;
        }
        site.timeline.note("pair", "the witness on site says who may go on alone");
        Ok(())
    }

    /// HQ tells the servers that there is no box any more.
    pub fn remove(mut self, site: &Site) -> anyhow::Result<()> {
        site.hq.cli(&["witness", "box-remove", SITE, "--destructive"])?;
        self.kill(site);
        Ok(())
    }
}
