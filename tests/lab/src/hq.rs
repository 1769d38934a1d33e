// SPDX-License-Identifier: Apache-2.0
//! HQ on this host's loopback, and the operator's command line against it.

use crate::artifacts::Artifacts;
use crate::gateway::{HOST_ADDRESS, free_port};
use crate::process::Child;
use crate::rundir::RunDir;
use crate::timeline::Timeline;
use anyhow::{Context, bail};
use provisioning_protocol::operator::EventView;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A running HQ with its folder.
pub struct Hq {
    bin_dir: PathBuf,
    dir: PathBuf,
    port: u16,
    run: Arc<RunDir>,
    timeline: Timeline,
    child: Option<Child>,
}

impl Hq {
    /// Makes HQ's folder (certificates, online keys, operator token) without starting it.
    pub fn init(
        run: &Arc<RunDir>,
        timeline: &Timeline,
        artifacts: &Artifacts,
    ) -> anyhow::Result<Self> {
        let dir = run.path().join("hq");
        let hq = Self {
            bin_dir: artifacts.bin_dir.clone(),
            dir,
            port: free_port()?,
            run: Arc::clone(run),
            timeline: timeline.clone(),
            child: None,
        };
        let mut command = Command::new(hq.bin_dir.join("forecourt-hq"));
        command.arg("init").arg("--dir").arg(&hq.dir);
        command.args(["--address", HOST_ADDRESS, "--address", "127.0.0.1"]);
        command.arg("--url").arg(hq.url_for_servers());
        finish(command)?;
        Ok(hq)
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = self.run.path().join("hq.log");
        let listen = format!("127.0.0.1:{}", self.port);
        let args = ["serve", "--dir", &self.dir.display().to_string(), "--listen", &listen]
            .map(str::to_owned);
        let program = self.bin_dir.join("forecourt-hq");
        let mut child = Child::spawn(self.run.book(), "forecourt-hq", &log, &program, args)?;
        crate::wait::wait_for("HQ to listen", Duration::from_secs(20), || {
            if let Err(error) = child.check_alive() {
                return Ok(Some(Err(error)));
            }
            std::net::TcpStream::connect(&listen)?;
            Ok(Some(Ok(())))
        })??;
        self.child = Some(child);
        self.timeline.note("hq", format!("listens on https://{listen}"));
        Ok(())
    }

    /// Whether it was started and not killed since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill();
            self.timeline.note("hq", "killed");
        }
    }

    /// Makes the catalogue's offline keys in `keys` and has HQ trust their root.
    pub fn make_keys(&self, keys: &Path) -> anyhow::Result<()> {
        let keys = keys.display().to_string();
        let online = self.dir.join("tuf-online.json").display().to_string();
        self.cli(&["keys", "init", "--dir", &keys, "--online", &online])?;
        self.cli(&["keys", "trust", "--dir", &keys]).map(drop)
    }

    /// The owner bundle for claim sticks, as text.
    pub fn owner_bundle(&self, tuf_root: &Path) -> anyhow::Result<String> {
        let out = self.dir.join("owner.json");
        let mut command = Command::new(self.bin_dir.join("forecourt-hq"));
        command.arg("owner-bundle").arg("--dir").arg(&self.dir).arg("--out").arg(&out);
        command.arg("--tuf-root").arg(tuf_root);
        finish(command)?;
        Ok(std::fs::read_to_string(out)?)
    }

    /// HQ's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// HQ's URL on this host.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// HQ's URL as servers reach it.
    #[must_use]
    pub fn url_for_servers(&self) -> String {
        format!("https://{HOST_ADDRESS}:{}", self.port)
    }

    /// Runs `forecourt` against this HQ and returns what it printed.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.bin_dir.join("forecourt"));
        command.args(self.connection()).args(args);
        finish(command)
    }

    fn connection(&self) -> Vec<String> {
        let ca = self.dir.join("pki/root-ca.pem").display().to_string();
        let token = self.dir.join("operator.token").display().to_string();
        let words = ["--hq", &self.url(), "--ca", &ca, "--token", &token];
        words.map(str::to_owned).to_vec()
    }

    /// Notes each event HQ hears of on the timeline, from now until the value is dropped.
    pub fn follow_events(&self) -> anyhow::Result<Child> {
        let out = self.run.path().join("events.jsonl");
        std::fs::write(&out, "")?;
        let mut args = self.connection();
        args.extend(["events", "--limit", "1", "--follow", "--json"].map(str::to_owned));
        let program = self.bin_dir.join("forecourt");
        let child = Child::spawn(self.run.book(), "event reader", &out, &program, args)?;
        let (pid, timeline) = (child.id(), self.timeline.clone());
        std::thread::spawn(move || narrate(&out, pid, &timeline));
        Ok(child)
    }

    /// Runs `forecourt … --json` and reads its output.
    pub fn cli_json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.cli(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("forecourt {args:?} printed {text:?}"))
    }
}

/// Reads events from the growing file `out` as long as the process that writes it lives.
fn narrate(out: &Path, pid: u32, timeline: &Timeline) {
    let mut seen = 0;
    let start = crate::process::start_ticks(pid);
    while start.is_some() && crate::process::start_ticks(pid) == start {
        let text = std::fs::read_to_string(out).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text.get(seen..whole).unwrap_or("").lines() {
            if let Ok(view) = serde_json::from_str::<EventView>(line) {
                let at_s = Duration::from_millis(view.event.at_ms).as_secs_f64();
                let who = view.slot.map_or("hq".to_owned(), |slot| slot.letter().to_string());
                let text = format!("[{}] {}", view.event.code, view.event.text);
                timeline.note_at(timeline.from_epoch_s(at_s), &who, text);
            }
        }
        seen = whole;
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs a command to its end and returns its standard output.
pub fn finish(mut command: Command) -> anyhow::Result<String> {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let args: Vec<String> =
        command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let out = command.output().with_context(|| format!("Starting {name}"))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        bail!("`{name} {}` ended with {}: {}", args.join(" "), out.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
