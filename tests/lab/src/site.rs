// SPDX-License-Identifier: Apache-2.0
//! A whole site: HQ, the network and two servers, built step by step so that a demo can narrate.

use crate::accel::Accel;
use crate::artifacts::Artifacts;
use crate::gateway::{self, Gateway};
use crate::hq::Hq;
use crate::http;
use crate::net::Switch;
use crate::rundir::RunDir;
use crate::server::{BOOT_LIMIT, Server, Spec, lan_mac};
use crate::stick;
use crate::timeline::Timeline;
use crate::writer::Page;
use anyhow::{Context, bail};
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::{Enrolment, LocalStatus};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The site's name at HQ.
pub const SITE: &str = "kassel";
/// The example VM.
pub const VM: &str = "parts-counter";
/// The example VM's address on the LAN.
pub const VM_ADDRESS: &str = "10.0.2.100";
/// HQ must be silent for 30 s before the tie-break moves, and is asked every 10 s.
const TIE_LIMIT: Duration = Duration::from_secs(150);
/// Memory of a server: the OS, and room for eight example VMs.
pub const MEMORY_MIB: u32 = 3072;

/// Everything a site is made of. Fields are public: a scenario reaches for what it needs.
pub struct Site {
    pub artifacts: Artifacts,
    pub accel: Accel,
    pub timeline: Timeline,
    pub run: Arc<RunDir>,
    pub hq: Hq,
    pub lan: Switch,
    pub cable: Switch,
    pub gateway: Gateway,
    pub a: Server,
    pub b: Server,
    /// The VM's page.
    pub page: Page,
    /// The claim codes, A's and B's.
    pub codes: [String; 2],
}

/// A VM of the lab's blueprint.
#[derive(Debug, Clone)]
pub struct PlannedVm {
    pub name: String,
    /// `A` or `B`; HQ's choice if not said.
    pub home: Option<String>,
    /// Its address on the LAN; the site's own value if not said.
    pub address: Option<String>,
}

/// The lab's blueprint: these VMs, of the example template.
#[must_use]
pub fn blueprint_text(vms: &[PlannedVm]) -> String {
    let mut text = "name: dealership\nvms:\n".to_owned();
    for PlannedVm { name, home, address } in vms {
        text += &format!("  - name: {name}\n    template: {{ name: {VM}, version: 1 }}\n");
        if let Some(home) = home {
            text += &format!("    home: {home}\n");
        }
        if let Some(address) = address {
            let gateway = gateway::HOST_ADDRESS;
            text += &format!("    variables: {{ ADDRESS: {address}/24, GATEWAY: {gateway} }}\n");
        }
    }
    text
}

/// HQ with the example template published and the site defined, before any server.
pub struct Office {
    pub artifacts: Artifacts,
    pub timeline: Timeline,
    pub run: Arc<RunDir>,
    pub hq: Hq,
    keys: PathBuf,
}

impl Office {
    /// Makes a run folder and HQ's folder, and starts HQ.
    pub fn open(artifacts: &Artifacts, name: &str, timeline: &Timeline) -> anyhow::Result<Self> {
        let run = Arc::new(RunDir::create(&artifacts.out, name)?);
        let mut hq = Hq::init(&run, timeline, artifacts)?;
        hq.start()?;
        let keys = run.path().join("offline-keys");
        let office =
            Self { artifacts: artifacts.clone(), timeline: timeline.clone(), run, hq, keys };
        Ok(office)
    }

    /// Makes the offline keys and has HQ trust their root.
    pub fn make_keys(&self) -> anyhow::Result<()> {
        self.hq.make_keys(&self.keys)
    }

    /// Builds, signs and publishes the example template.
    pub fn publish_template(&self) -> anyhow::Result<()> {
        let built = self.run.path().join("built").display().to_string();
        let source = self.artifacts.template.display().to_string();
        let keys = self.keys.display().to_string();
        self.hq.cli(&["template", "build", &source, "--out", &built])?;
        self.hq.cli(&["template", "sign", &built, "--keys", &keys])?;
        self.hq.cli(&["template", "publish", &built])?;
        Ok(())
    }

    /// Defines the blueprint and the site; returns the claim codes.
    pub fn define_site(&self) -> anyhow::Result<[String; 2]> {
        let blueprint = self.run.path().join("blueprint.yaml");
        let vm = PlannedVm { name: VM.to_owned(), home: None, address: None };
        std::fs::write(&blueprint, blueprint_text(&[vm]))?;
        let site = self.run.path().join("site.yaml");
        std::fs::write(
            &site,
            format!(
                "name: {SITE}\nblueprint: dealership\nvariables:\n  {VM}:\n    \
                 ADDRESS: {VM_ADDRESS}/24\n    GATEWAY: {}\n",
                gateway::HOST_ADDRESS
            ),
        )?;
        self.hq.cli(&["blueprint", "apply", &blueprint.display().to_string()])?;
        let answer = self.hq.cli_json(&["site", "create", &site.display().to_string()])?;
        let code = |slot: &str| -> anyhow::Result<String> {
            let code = answer["codes"][slot].as_str();
            Ok(code.with_context(|| format!("No claim code for {slot} in {answer}"))?.to_owned())
        };
        Ok([code("A")?, code("B")?])
    }

    /// Builds the network and the two servers, which stay off.
    pub fn into_site(self, codes: [String; 2]) -> anyhow::Result<Site> {
        let accel = self.artifacts.accel()?;
        let (run, timeline) = (self.run, self.timeline);
        let lan =
            Switch::start(run.sockets(), "lan", &["a", "b", gateway::PORT, crate::probe::PORT])?;
        let cable = Switch::start(run.sockets(), "cable", &["a", "b"])?;
        let mut gateway = Gateway::start(&run, "lan")?;
        let page_port = gateway.forward(VM_ADDRESS, 80)?;
        let owner = self.hq.owner_bundle(&self.keys.join("root.json"))?;
        let used_disk = run.path().join("used.raw");
        stick::write(&used_disk, &[("accounts.txt", "Nobody's to erase.\n")])?;
        let server = |name, code: &str| {
            let image = self.artifacts.image.clone();
            let used_disk = (name == "a").then(|| used_disk.clone());
            let emulator = self.artifacts.emulator(accel);
            let (memory_mib, watchdog) = (MEMORY_MIB, true);
            let spec = Spec { name, memory_mib, accel, emulator, image, used_disk, watchdog };
            Server::new(&run, &timeline, spec, &[("claim.txt", code), ("owner.json", &owner)])
        };
        let (a, b) = (server("a", &codes[0])?, server("b", &codes[1])?);
        Ok(Site {
            artifacts: self.artifacts,
            accel,
            hq: self.hq,
            lan,
            cable,
            gateway,
            a,
            b,
            page: Page::new(page_port),
            codes,
            timeline,
            run,
        })
    }
}

/// Bytes a server exchanged over the WAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WanBytes {
    /// From HQ to the server.
    pub received: u64,
    /// From the server to HQ.
    pub sent: u64,
}

impl Site {
    /// A site up to the point where only the power is missing.
    pub fn prepare(artifacts: &Artifacts, name: &str, timeline: &Timeline) -> anyhow::Result<Self> {
        let office = Office::open(artifacts, name, timeline)?;
        office.make_keys()?;
        office.publish_template()?;
        let codes = office.define_site()?;
        office.into_site(codes)
    }

    /// Boots both servers and waits until the pair is healthy and the VM's page answers.
    pub fn bring_up(&mut self) -> anyhow::Result<()> {
        self.a.power_on()?;
        self.b.power_on()?;
        for server in [&self.a, &self.b] {
            server.wait_booted(BOOT_LIMIT)?;
        }
        self.wait_enrolled(Duration::from_secs(180))?;
        self.wait_page(Duration::from_secs(400))?;
        self.wait_paired(Duration::from_secs(240))
    }

    /// Waits until both servers are enrolled; returns when.
    pub fn wait_enrolled(&self, limit: Duration) -> anyhow::Result<f64> {
        for server in [&self.a, &self.b] {
            server.wait_status("enrolled", limit, |s| {
                (s.enrolment == Enrolment::Done).then_some(())
            })?;
            self.timeline.note(server.name(), "enrolled");
        }
        Ok(self.timeline.now_s())
    }

    /// Waits until both servers say that they are a pair in sync.
    pub fn wait_paired(&self, limit: Duration) -> anyhow::Result<()> {
        for server in [&self.a, &self.b] {
            server.wait_status("pair in sync", limit, |s| is_paired(s).then_some(()))?;
        }
        self.timeline.note("pair", "healthy, in sync");
        Ok(())
    }

    /// Waits until both servers say that `holder` goes on alone if they part, since HQ is silent.
    pub fn wait_tie_on_site(&self, holder: &str) -> anyhow::Result<()> {
        let words = format!("server {} goes on alone", holder.to_uppercase());
        for server in [&self.a, &self.b] {
            server.wait_status("the tie-break on site", TIE_LIMIT, |status| {
                (is_paired(status) && status.server.pair.cause.contains(&words)).then_some(())
            })?;
        }
        self.timeline.note("pair", format!("HQ is silent: {words} if they part"));
        Ok(())
    }

    /// Waits until both have HQ's witness say again who may go on.
    pub fn wait_tie_at_hq(&self) -> anyhow::Result<()> {
        for server in [&self.a, &self.b] {
            server.wait_status("the tie-break at HQ", TIE_LIMIT, |status| {
                let back = is_paired(status)
                    && status.hq_error.is_empty()
                    && status.server.pair.cause == "Both servers are in sync.";
                back.then_some(())
            })?;
        }
        self.timeline.note("pair", "HQ is back, and asked again who may go on");
        Ok(())
    }

    /// Waits until the VM's page answers; returns when.
    pub fn wait_page(&self, limit: Duration) -> anyhow::Result<f64> {
        crate::wait::wait_for("the VM's page", limit, || {
            let page = http::get(self.page.port, "/", Duration::from_secs(3))?;
            if page.status != 200 {
                bail!("the page answered {}", page.status);
            }
            Ok(Some(()))
        })?;
        Ok(self.timeline.note(VM, "page answers"))
    }

    /// Starts both agents anew; their VMs run on.
    pub fn restart_agents(&self) -> anyhow::Result<()> {
        for server in [&self.a, &self.b] {
            server.exec("systemctl restart forecourt-agent")?.ok()?;
        }
        Ok(())
    }

    /// The server by its letter.
    pub fn server(&mut self, name: &str) -> &mut Server {
        if name == "a" { &mut self.a } else { &mut self.b }
    }

    /// The file behind server A's third disk, which holds somebody's files.
    #[must_use]
    pub fn used_disk(&self) -> PathBuf {
        self.run.path().join("used.raw")
    }

    /// The letter of the server on which the VM runs, as the servers themselves say.
    pub fn host_of_vm(&self) -> anyhow::Result<&'static str> {
        crate::wait::wait_for("a server that runs the VM", Duration::from_secs(30), || {
            self.find_vm().map(Some)
        })
    }

    fn find_vm(&self) -> anyhow::Result<&'static str> {
        for server in [&self.a, &self.b] {
            let runs = |phase| matches!(phase, VmPhase::Running | VmPhase::Healthy);
            if server.is_on() && server.status()?.server.vms.iter().any(|vm| runs(vm.phase)) {
                return Ok(server.name());
            }
        }
        bail!("no server runs {VM}")
    }

    /// What a server exchanged with HQ since the network was built.
    #[must_use]
    pub fn wan_bytes(&self, name: &str) -> WanBytes {
        let mac = lan_mac(name);
        WanBytes {
            received: self.lan.bytes(gateway::MAC, mac),
            sent: self.lan.bytes(mac, gateway::MAC),
        }
    }

    /// Cuts both servers' way to HQ. The way from outside to the VM's page stays.
    pub fn cut_wan(&self) {
        self.set_wan_cut(true);
        self.timeline.note("wan", "cut");
    }

    /// Heals the way to HQ.
    pub fn heal_wan(&self) {
        self.set_wan_cut(false);
        self.timeline.note("wan", "healed");
    }

    fn set_wan_cut(&self, cut: bool) {
        for mac in ["a", "b"].map(lan_mac) {
            self.lan.block(mac, gateway::MAC, cut);
            self.lan.block(gateway::MAC, mac, cut);
        }
    }
}

/// Whether a server says that both are connected and hold the same data.
#[must_use]
pub fn is_paired(status: &LocalStatus) -> bool {
    let pair = &status.server.pair;
    pair.state == PeerState::Pair && pair.in_sync.len() == 2 && pair.resync_percent.is_none()
}
