// SPDX-License-Identifier: Apache-2.0
//! Two servers with fake hands, a witness, and an agent for each: in a runtime of its own, so that dropping
//! the runtime is the death of that agent.

use agent_core::{Config, DesiredVm, Input, WitnessAt};
use agent_daemon::bmc::{NoBmc, PowerPort};
use agent_daemon::durable::causes::Causes;
use agent_daemon::durable::slots::Slots;
use agent_daemon::pair::engine::durable;
use agent_daemon::pair::executor::WitnessPort;
use agent_daemon::pair::start::{Pair, PairParts, start};
use agent_daemon::paths::Paths;
use agent_daemon::peer::link::{Ends, PeerLink};
use agent_daemon::peer::memory::MemoryLink;
use agent_daemon::run::{Glue, Pulse};
use agent_daemon::status::Hub;
use agent_daemon::status::hub::Fixed;
use agent_daemon::vms::fill::Fill;
use agent_daemon::vms::registry::{Registry, VmEntry};
use async_trait::async_trait;
use hypervisor_glue::network::FakeNetwork;
use hypervisor_glue::replication::{
    FakeReplication, ReplicaSpec, Replication, replication_address,
};
use hypervisor_glue::vms::FakeVms;
use hypervisor_glue::volumes::FakeVolumes;
use provisioning_protocol::desired::{Secret, VmAssignment};
use provisioning_protocol::ids::{DiskName, NodeSlot, SiteName, TemplateName, VmName};
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::template::{
    CpuModel, DiskRole, DiskSpec, GuestFirmware, TemplateRef, TemplateVersion, VmSpec,
};
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessState, WitnessSwap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::runtime::Runtime;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct SharedWitness {
    pub state: Mutex<WitnessState>,
    pub up: AtomicBool,
    /// A witness on site, if the site has one.
    pub local: Option<Mutex<WitnessState>>,
}

impl SharedWitness {
    fn at(&self, at: WitnessAt) -> Option<&Mutex<WitnessState>> {
        match at {
            WitnessAt::Hq => self.up.load(Ordering::SeqCst).then_some(&self.state),
            WitnessAt::Local => self.local.as_ref(),
        }
    }
}

#[async_trait]
impl WitnessPort for SharedWitness {
    async fn swap(&self, at: WitnessAt, swap: &WitnessSwap) -> Option<WitnessAnswer> {
        self.at(at).map(|state| state.lock().unwrap().swap(swap))
    }
    async fn record(&self, at: WitnessAt) -> Option<WitnessRecord> {
        self.at(at).map(|state| state.lock().unwrap().record.clone())
    }
}

/// A BMC that does as told.
#[derive(Default)]
pub struct FakePower(pub Mutex<Vec<&'static str>>);

#[async_trait]
impl PowerPort for FakePower {
    async fn off(&self) -> bool {
        self.0.lock().unwrap().push("off");
        true
    }
    async fn on(&self) {
        self.0.lock().unwrap().push("on");
    }
}

/// What outlives an agent.
pub struct Server {
    pub power: Option<Arc<FakePower>>,
    pub slot: NodeSlot,
    pub dir: TempDir,
    pub replication: FakeReplication,
    pub vms: FakeVms,
    pub network: FakeNetwork,
    /// Where memory arrives, here and there.
    pub memory: (SocketAddr, SocketAddr),
    pub ends: [(Path, Ends); 2],
}

/// A running agent.
pub struct Agent {
    pub runtime: Option<Runtime>,
    pub hub: Arc<Hub>,
    pub pair: Pair,
}

impl Agent {
    /// As kill -9: no task gets to say goodbye.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub fn state(&self) -> Option<PeerState> {
        self.hub.read(|state| state.pair.as_ref().map(|pair| pair.state))
    }
}

pub fn vm() -> VmName {
    VmName::new("till").unwrap()
}

pub fn servers() -> (Server, Server) {
    // All at once, or two could be the same.
    let free = [(); 4].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let [a1, a2, b1, b2] = free.map(|socket| socket.local_addr().unwrap());
    let free = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [a3, b3] = free.map(|socket| socket.local_addr().unwrap());
    let memory = |slot| if slot == NodeSlot::A { (a3, b3) } else { (b3, a3) };
    let server = |slot, cable: (SocketAddr, SocketAddr), lan: (SocketAddr, SocketAddr)| Server {
        power: None,
        slot,
        memory: memory(slot),
        dir: tempfile::tempdir().unwrap(),
        replication: FakeReplication::default(),
        vms: FakeVms::default(),
        network: FakeNetwork::default(),
        ends: [
            (Path::Cable, Ends { own: cable.0, peer: cable.1 }),
            (Path::Lan, Ends { own: lan.0, peer: lan.1 }),
        ],
    };
    let a = server(NodeSlot::A, (a1, b1), (a2, b2));
    let b = server(NodeSlot::B, (b1, a1), (b2, a2));
    a.replication.join(&b.replication);
    (a, b)
}

pub fn witness() -> Arc<SharedWitness> {
    witnesses(None)
}

pub fn witnesses(local: Option<Mutex<WitnessState>>) -> Arc<SharedWitness> {
    let (state, up) = (Mutex::new(WitnessState::new(1)), AtomicBool::new(true));
    Arc::new(SharedWitness { state, up, local })
}

pub fn config(slot: NodeSlot, nonce: u64) -> Config {
    Config {
        listen_ms: 500,
        switch_ms: 500,
        claim_delay_ms: 300,
        witness_retry_ms: 500,
        witness_poll_ms: 500,
        pause_ms: 1000,
        fence_ms: 2000,
        cold_boot_ms: 3000,
        rebalance_ms: 1000,
        ..Config::new(slot, nonce)
    }
}

pub fn entry(slot: NodeSlot) -> VmEntry {
    let disk = DiskName::new("system").unwrap();
    let name = TemplateName::new("pos").unwrap();
    let template = TemplateRef { name, version: TemplateVersion(1) };
    let address = |slot| IpAddr::V6(replication_address(slot));
    VmEntry {
        assignment: VmAssignment {
            name: vm(),
            template: template.clone(),
            home: NodeSlot::A,
            volumes: vec![0],
            index: 0,
            variables: Default::default(),
        },
        template,
        vm: VmSpec {
            firmware: GuestFirmware::Bios,
            cpu: CpuModel::default(),
            cpus: 1,
            memory_mib: 128,
            disks: vec![DiskSpec { name: disk.clone(), role: DiskRole::System, size_bytes: 4096 }],
            nics: 1,
            probe: None,
            variables: Default::default(),
        },
        replicas: vec![ReplicaSpec {
            vm: vm(),
            disk,
            number: 0,
            backing: "/dev/forecourt/vm-till-system".into(),
            guest_bytes: 4096,
            own: address(slot),
            peer: address(slot.peer()),
            secret: Secret("secret".into()),
        }],
        ready: false,
        counted: false,
    }
}

/// A keeper that is always armed.
pub async fn keeper(listener: tokio::net::UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                drop(write.write_all(b"{\"armed\":true,\"reason\":\"\"}\n").await);
            }
        });
    }
}

pub fn agent(server: &Server, witness: &Arc<SharedWitness>, nonce: u64) -> Agent {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let paths = Paths::under(server.dir.path());
    paths.create().unwrap();
    let hub =
        Arc::new(Hub::new(Fixed::default(), Causes::new(paths.causes(), &paths.cause_link())));
    let registry = Arc::new(Registry::open(paths.ready_vms()).unwrap());
    let glue = Glue {
        volumes: Arc::new(FakeVolumes::new(server.dir.path())),
        replication: Arc::new(server.replication.clone()),
        vms: Arc::new(server.vms.clone()),
        network: Arc::new(server.network.clone()),
    };
    let mut config = config(server.slot, nonce);
    let power: Arc<dyn PowerPort> = match server.power.clone() {
        Some(power) => {
            // Only its BMC can say that the other server is off.
            config.fence_ms = 3_600_000;
            power
        }
        None => Arc::new(NoBmc),
    };
    let pair = runtime.block_on(async {
        drop(std::fs::remove_file(paths.watchdog_socket()));
        let listener = tokio::net::UnixListener::bind(paths.watchdog_socket()).unwrap();
        tokio::spawn(keeper(listener));
        let site = SiteName::new("oslo").unwrap();
        let pair = start(PairParts {
            site: site.clone(),
            config,
            paths,
            glue,
            registry: registry.clone(),
            fill: tokio::sync::watch::channel(Fill::Fine).1,
            witness: witness.clone(),
            power,
            link: PeerLink::new(site.clone(), server.slot, nonce, &server.ends),
            memory: MemoryLink::new(site, vec![server.memory]),
            hub: hub.clone(),
            pulse: Pulse::default(),
            reset: || panic!("the core ordered a reset"),
        })
        .await
        .unwrap();
        let has_bmc = server.power.is_some();
        pair.inputs.send(Input::BmcConfigured(has_bmc)).await.unwrap();
        let wish = DesiredVm { name: vm(), home: NodeSlot::A, weight: 1 };
        pair.inputs.send(Input::Desired(vec![wish])).await.unwrap();
        let fitted = Input::LocalWitness(witness.local.is_some());
        pair.inputs.send(fitted).await.unwrap();
        let entry = entry(server.slot);
        let spec = entry.replicas[0].clone();
        server.replication.create_metadata(&spec).await.unwrap();
        server.replication.attach(&spec).await.unwrap();
        server.replication.connect(&spec).await.unwrap();
        if registry.put(entry, false).unwrap() {
            let ready = Input::VolumesReady { vm: vm(), ready: true };
            pair.inputs.send(ready).await.unwrap();
        }
        pair.look.notify_one();
        pair
    });
    Agent { runtime: Some(runtime), hub, pair }
}

#[track_caller]
pub fn wait(what: &str, agents: &[&Agent], mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > end {
            for agent in agents {
                let status = agent.hub.server();
                eprintln!("{:?}\n{:?}", status.pair, status.problems);
                for event in agent.hub.local().events {
                    eprintln!("  {} {}", event.code, event.text);
                }
            }
            panic!("{what} did not happen");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a server has it on disk that the witness knows of the pair.
pub fn knows_witness(server: &Server) -> bool {
    let dir = Paths::under(server.dir.path()).state_dir();
    let (_, payload) = Slots::open(&dir, "pair").unwrap();
    durable(payload).is_some_and(|state| state.last_seen.is_some_and(|seen| seen.epoch.0 > 0))
}

/// Both agents up, in sync, the VM on A.
pub fn healthy(a: &Server, b: &Server, witness: &Arc<SharedWitness>) -> (Agent, Agent) {
    let (agent_a, agent_b) = (agent(a, witness, 1 << 20), agent(b, witness, 2 << 20));
    wait("a healthy pair", &[&agent_a, &agent_b], || {
        agent_a.state() == Some(PeerState::Pair)
            && agent_b.state() == Some(PeerState::Pair)
            && a.vms.launches().len() == 1
            && witness.state.lock().unwrap().record.in_sync.len() == 2
            && knows_witness(a)
            && knows_witness(b)
    });
    (agent_a, agent_b)
}
