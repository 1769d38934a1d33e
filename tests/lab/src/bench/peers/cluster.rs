// SPDX-License-Identifier: Apache-2.0
//! Two servers with Pacemaker, Corosync and DRBD, set up as their documents say.

use super::journal;
use crate::artifacts::Artifacts;
use crate::bench::sample::{Phases, Sample};
use crate::failover::wait_acks;
use crate::gateway::{self, Gateway};
use crate::http;
use crate::matrix::bmc::Board;
use crate::matrix::round::MINUTE;
use crate::net::Switch;
use crate::rundir::RunDir;
use crate::server::{BOOT_LIMIT, Server, Spec};
use crate::site::{MEMORY_MIB, VM, VM_ADDRESS};
use crate::timeline::{Timeline, epoch_s};
use crate::wait::{wait_every, wait_for};
use crate::writer::{Page, Writer};
use anyhow::{Context, bail, ensure};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const COROSYNC: &str = include_str!("../../../peers/config/corosync.conf");
const RESOURCE: &str = include_str!("../../../peers/config/vm.res");
const GUEST: &str = include_str!("../../../peers/config/guest.service");
const SETUP: &str = include_str!("../../../peers/config/setup.sh");
const PROPERTIES: &str = include_str!("../../../peers/config/cib/properties.xml");
const RESOURCES: &str = include_str!("../../../peers/config/cib/resources.xml");
const CONSTRAINTS: &str = include_str!("../../../peers/config/cib/constraints.xml");

/// The one machine that sushy-tools' fake driver has.
const BMC_SYSTEM: &str = "/redfish/v1/Systems/27946b59-9e44-4fa7-8e91-f3527a1ef094";
const RESOURCE_FILE: &str = "/etc/drbd.d/vm.res";
/// One step of the setup, in a server that is emulated.
const STEP_LIMIT: Duration = Duration::from_secs(280);
/// Until a pair that was started, or whose server came back, is whole.
const WHOLE_LIMIT: Duration = Duration::from_secs(600);
/// From the kill to the first acknowledgement.
const SERVING_LIMIT: Duration = Duration::from_secs(480);
/// Each look costs an emulated server some work.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// Acknowledgements that show that the VM serves.
const ACKS: usize = 20;
/// An acknowledgement this soon after the kill was on its way already.
const IN_FLIGHT_S: f64 = 0.5;

/// Which of DRBD's fence handlers is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// The one that knows what Pacemaker says since 2.1.7.
    Repaired,
    /// Debian's.
    AsShipped,
}

impl Handler {
    fn path(self) -> &'static str {
        match self {
            Self::Repaired => "/usr/local/lib/drbd/crm-fence-peer.sh",
            Self::AsShipped => "/usr/lib/drbd/crm-fence-peer.sh",
        }
    }
}

/// The pair with its network and BMCs.
pub struct Cluster {
    timeline: Timeline,
    run: Arc<RunDir>,
    _lan: Switch,
    _cable: Switch,
    _gateway: Gateway,
    servers: [Server; 2],
    boards: [Board; 2],
    page: Page,
    system_mib: u64,
}

impl Cluster {
    /// Builds the network, the BMCs and the two servers, which stay off.
    pub fn prepare(
        artifacts: &Artifacts,
        image: &Path,
        timeline: &Timeline,
    ) -> anyhow::Result<Self> {
        let accel = artifacts.accel()?;
        let run = Arc::new(RunDir::create(&artifacts.out, "bench-peers-pacemaker")?);
        let lan = Switch::start(run.sockets(), "lan", &["a", "b", gateway::PORT])?;
        let cable = Switch::start(run.sockets(), "cable", &["a", "b"])?;
        let mut gateway = Gateway::start(&run, "lan")?;
        let page_port = gateway.forward(VM_ADDRESS, 80)?;
        let system = run.path().join("system.raw");
        std::fs::copy(artifacts.template.join("system.raw"), &system)
            .context("Copying the example template's disk")?;
        let system_mib = std::fs::metadata(&system)?.len().div_ceil(1 << 20);
        // The guest reads its address off the stick, as off the disk that Forecourt gives it.
        let seed = format!("ADDRESS: {VM_ADDRESS}/24\nGATEWAY: {}\n", gateway::HOST_ADDRESS);
        let server = |name| {
            let used_disk = (name == "b").then(|| system.clone());
            let (image, emulator) = (image.to_owned(), artifacts.emulator(accel));
            let (memory_mib, watchdog) = (MEMORY_MIB, true);
            let spec = Spec { name, memory_mib, accel, emulator, image, used_disk, watchdog };
            Server::new(&run, timeline, spec, &[("user-data", &seed), ("meta-data", "")])
        };
        Ok(Self {
            servers: [server("a")?, server("b")?],
            boards: [Board::start(&run, "a")?, Board::start(&run, "b")?],
            timeline: timeline.clone(),
            run,
            _lan: lan,
            _cable: cable,
            _gateway: gateway,
            page: Page::new(page_port),
            system_mib,
        })
    }

    /// Boots both servers, sets them up and waits until the VM serves on a whole pair.
    pub fn bring_up(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.power_on()?;
        }
        for server in &self.servers {
            server.wait_booted(BOOT_LIMIT)?;
            self.configure(server)?;
        }
        self.step(1, "fill")?;
        for at in [0, 1] {
            self.step(at, "cluster")?;
        }
        let what = "both servers in the cluster";
        wait_every(what, WHOLE_LIMIT, LOOK_PAUSE, || self.says(1, "crm_mon -1", &[BOTH_ONLINE]))?;
        self.timeline.note("pair", "both servers in the cluster");
        self.load_configuration()?;
        self.wait_whole()?;
        wait_for("the VM's page", WHOLE_LIMIT, || {
            let page = http::get(self.page.port, "/", Duration::from_secs(3))?;
            Ok((page.status == 200).then_some(()))
        })?;
        self.timeline.note(VM, "page answers");
        Ok(())
    }

    fn configure(&self, server: &Server) -> anyhow::Result<()> {
        let files = [
            ("/etc/corosync/corosync.conf", COROSYNC),
            (RESOURCE_FILE, RESOURCE),
            ("/etc/systemd/system/guest.service", GUEST),
            ("/root/setup.sh", SETUP),
        ];
        for (path, text) in files {
            write_file(server, path, text)?;
        }
        let global = "global {\n\tusage-count no;\n}\ncommon {\n}\n";
        write_file(server, "/etc/drbd.d/global_common.conf", global)?;
        let steps = [format!("name {}", server.name()), format!("volumes {}", self.volume_mib())];
        for step in steps {
            run_step(server, &step)?;
        }
        self.timeline.note(server.name(), "has its volumes");
        Ok(())
    }

    /// Room for DRBD's own data beside the guest's.
    fn volume_mib(&self) -> u64 {
        self.system_mib + 8
    }

    fn step(&self, at: usize, step: &str) -> anyhow::Result<()> {
        run_step(&self.servers[at], step)?;
        self.timeline.note(self.servers[at].name(), format!("{step}: done"));
        Ok(())
    }

    /// Puts Pacemaker's configuration in place at once: nothing starts in between.
    fn load_configuration(&self) -> anyhow::Result<()> {
        let resources = RESOURCES
            .replace("@PORT_A@", &self.boards[0].port().to_string())
            .replace("@PORT_B@", &self.boards[1].port().to_string())
            .replace("@SYSTEM@", BMC_SYSTEM);
        let maintenance = |on: &str| PROPERTIES.replace("@MAINTENANCE@", on);
        let parts = [
            ("crm_config", maintenance("true")),
            ("resources", resources),
            ("constraints", CONSTRAINTS.to_owned()),
            ("crm_config", maintenance("false")),
        ];
        for (scope, text) in parts {
            let command =
                format!("cibadmin --replace --scope {scope} --xml-pipe <<'END'\n{text}END");
            self.servers[1].exec_for(&command, STEP_LIMIT)?.ok().context(scope)?;
        }
        self.timeline.note("pair", "Pacemaker has its configuration");
        Ok(())
    }

    /// Whether a command on a server prints all of these.
    fn says(&self, at: usize, command: &str, wanted: &[&str]) -> anyhow::Result<Option<()>> {
        let text = self.servers[at].exec(command)?.ok()?;
        match wanted.iter().find(|words| !text.contains(*words)) {
            None => Ok(Some(())),
            Some(missing) => bail!("no \"{missing}\" in {text}"),
        }
    }

    /// Waits until both servers are members, both copies are equal, nothing is banned, and both
    /// BMCs and the VM are served.
    fn wait_whole(&self) -> anyhow::Result<()> {
        wait_every("a whole pair", WHOLE_LIMIT, LOOK_PAUSE, || {
            for server in &self.servers {
                let text = server.exec("cat /proc/drbd")?.ok()?;
                let both = |words| text.matches(words).count() == 2;
                if !both("cs:Connected") || !both("ds:UpToDate/UpToDate") {
                    bail!("server {}: {text}", server.name());
                }
            }
            Ok(Some(()))
        })?;
        let started = ["Started"; 3];
        wait_every("a cluster at rest", WHOLE_LIMIT, LOOK_PAUSE, || {
            let text = self.servers[0].exec("crm_mon -1 && cibadmin -Q -o constraints")?.ok()?;
            let resources = ["fence-a", "fence-b", "guest"].map(|name| {
                text.lines().find(|line| line.contains(&format!("{name}\t"))).unwrap_or_default()
            });
            let all = resources.iter().zip(started).all(|(line, word)| line.contains(word));
            if all && text.contains(BOTH_ONLINE) && !text.contains("drbd-fence-by-handler") {
                return Ok(Some(()));
            }
            bail!("{text}")
        })?;
        // Until no more is to be done.
        for server in &self.servers {
            server.exec_for("crm_resource --wait --timeout 240", STEP_LIMIT)?.ok()?;
        }
        self.timeline.note("pair", "whole, at rest");
        Ok(())
    }

    fn host(&self) -> anyhow::Result<usize> {
        for (at, server) in self.servers.iter().enumerate() {
            if server.exec("systemctl is-active guest.service")?.code == 0 {
                return Ok(at);
            }
        }
        bail!("no server runs {VM}")
    }

    /// Kills the VM's server, waits until the other one serves, and switches it on again.
    pub fn kill_host(&mut self, handler: Handler) -> anyhow::Result<Sample> {
        self.use_handler(handler)?;
        self.wait_whole()?;
        let host = self.host()?;
        let survivor = 1 - host;
        let offset_s = self.servers[survivor].clock_offset_s()?;
        let writer = Writer::start(&self.page, &self.timeline);
        wait_acks(&writer, ACKS, 2 * MINUTE)?;
        let killed_s = self.servers[host].kill();
        let killed_epoch_s = epoch_s() - (self.timeline.now_s() - killed_s);
        self.boards[host].says("Off")?;
        let served = wait_for("the page on the other server", SERVING_LIMIT, || {
            Ok(writer.first_ack_after(killed_s + IN_FLIGHT_S))
        });
        let journal = self.journal(survivor, killed_epoch_s - offset_s)?;
        let serving_s = served?;
        self.timeline.note_at(serving_s, VM, "acknowledges writes again");
        wait_acks(&writer, writer.acked() + ACKS, 2 * MINUTE)?;
        let mut phases = journal::phases(&journal, killed_epoch_s - offset_s)?;
        phases.insert("serving_s", serving_s - killed_s);
        self.note(&phases);
        let on_s = self.timeline.now_s();
        self.boards[host].says("On")?;
        self.servers[host].power_on()?;
        self.servers[host].wait_booted(BOOT_LIMIT)?;
        self.wait_whole()?;
        phases.insert("resync_s", self.timeline.now_s() - on_s);
        wait_acks(&writer, writer.acked() + ACKS, 2 * MINUTE)?;
        ensure!(self.host()? == survivor, "the VM moved back by itself");
        let verdict = writer.finish()?;
        let (acked_writes, lost_writes) = (verdict.acked, verdict.lost);
        Ok(Sample { phases, acked_writes, lost_writes, torn_writes: verdict.torn })
    }

    fn note(&self, phases: &Phases) {
        let all: Vec<String> =
            phases.iter().map(|(phase, seconds)| format!("{phase} {seconds:.2}")).collect();
        self.timeline.note("lab", all.join(", "));
    }

    fn use_handler(&self, handler: Handler) -> anyhow::Result<()> {
        let line = format!("fence-peer \"{}\";", handler.path());
        let command = format!("sed -i 's|fence-peer .*|{line}|' {RESOURCE_FILE} && sync");
        for server in &self.servers {
            server.exec(&command)?.ok()?;
        }
        Ok(())
    }

    /// The survivor's journal since the kill; it is kept in the run's folder, with Pacemaker's own.
    fn journal(&self, at: usize, since_s: f64) -> anyhow::Result<String> {
        let server = &self.servers[at];
        let since = format!("--since=@{:.0}", since_s.floor());
        let command = format!("journalctl -b -o short-unix --no-pager {since}");
        let journal = server.exec_for(&command, STEP_LIMIT)?.ok()?;
        let detail = server.exec("tail -n 1500 /var/log/pacemaker/pacemaker.log")?.text;
        let folder = self.run.path();
        let stem = format!("{}-{:.0}", server.name(), self.timeline.now_s());
        std::fs::write(folder.join(format!("journal-{stem}.log")), &journal)?;
        std::fs::write(folder.join(format!("pacemaker-{stem}.log")), detail)?;
        Ok(journal)
    }
}

/// What `crm_mon` says of a whole cluster.
const BOTH_ONLINE: &str = "Online: [ a b ]";

fn run_step(server: &Server, step: &str) -> anyhow::Result<()> {
    let done = server.exec_for(&format!("sh /root/setup.sh {step}"), STEP_LIMIT)?.ok();
    done.map(drop).with_context(|| format!("Server {}: {step}", server.name()))
}

fn write_file(server: &Server, path: &str, text: &str) -> anyhow::Result<()> {
    let command = format!("cat >{path} <<'END-OF-FILE'\n{text}END-OF-FILE");
    server.exec(&command)?.ok().map(drop).with_context(|| format!("Writing {path}"))
}
