// SPDX-License-Identifier: Apache-2.0
//! Two agents' pair loops with fake hands: each in a runtime of its own, so that dropping the
//! runtime is the death of that agent.

use agent_core::{Config, DesiredVm, Input, Placement, WitnessAt};
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
    DiskState, FakeReplication, LinkState, ReplicaSpec, Replication, replication_address,
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

const PATIENCE: Duration = Duration::from_secs(30);

struct SharedWitness {
    state: Mutex<WitnessState>,
    up: AtomicBool,
    /// A witness on site, if the site has one.
    local: Option<Mutex<WitnessState>>,
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
struct FakePower(Mutex<Vec<&'static str>>);

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
struct Server {
    power: Option<Arc<FakePower>>,
    slot: NodeSlot,
    dir: TempDir,
    replication: FakeReplication,
    vms: FakeVms,
    network: FakeNetwork,
    /// Where memory arrives, here and there.
    memory: (SocketAddr, SocketAddr),
    ends: [(Path, Ends); 2],
}

/// A running agent.
struct Agent {
    runtime: Option<Runtime>,
    hub: Arc<Hub>,
    pair: Pair,
}

impl Agent {
    /// As kill -9: no task gets to say goodbye.
    fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    fn state(&self) -> Option<PeerState> {
        self.hub.read(|state| state.pair.as_ref().map(|pair| pair.state))
    }
}

fn vm() -> VmName {
    VmName::new("till").unwrap()
}

fn servers() -> (Server, Server) {
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

fn witness() -> Arc<SharedWitness> {
    witnesses(None)
}

fn witnesses(local: Option<Mutex<WitnessState>>) -> Arc<SharedWitness> {
    let (state, up) = (Mutex::new(WitnessState::new(1)), AtomicBool::new(true));
    Arc::new(SharedWitness { state, up, local })
}

fn config(slot: NodeSlot, nonce: u64) -> Config {
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

fn entry(slot: NodeSlot) -> VmEntry {
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
async fn keeper(listener: tokio::net::UnixListener) {
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

fn agent(server: &Server, witness: &Arc<SharedWitness>, nonce: u64) -> Agent {
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
fn wait(what: &str, agents: &[&Agent], mut done: impl FnMut() -> bool) {
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
fn knows_witness(server: &Server) -> bool {
    let dir = Paths::under(server.dir.path()).state_dir();
    let (_, payload) = Slots::open(&dir, "pair").unwrap();
    durable(payload).is_some_and(|state| state.last_seen.is_some_and(|seen| seen.epoch.0 > 0))
}

/// Both agents up, in sync, the VM on A.
fn healthy(a: &Server, b: &Server, witness: &Arc<SharedWitness>) -> (Agent, Agent) {
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

#[test]
fn a_pair_forms_and_the_vm_starts_at_home_only() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    assert!(b.vms.launches().is_empty(), "the VM was started twice");
    let status = agent_a.hub.server();
    assert_eq!(status.pair.in_sync.len(), 2);
    assert_eq!(status.pair.paths.len(), 2, "both paths are heard");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_killed_agent_finds_its_vm_running_and_goes_on() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    agent_a.kill();
    let agent_a = agent(&a, &witness, 3 << 20);
    wait("the pair after a restart", &[&agent_a, &agent_b], || {
        agent_a.state() == Some(PeerState::Pair)
    });
    assert_eq!(a.vms.launches().len(), 1, "the VM was started again");
    assert!(b.vms.launches().is_empty(), "the peer took the VM");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_dead_server_s_vm_starts_on_the_other_after_the_witness_agreed() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(agent_b.state(), Some(PeerState::Solo));
    assert_eq!(witness.state.lock().unwrap().record.winner, Some(NodeSlot::B));
    let calls = b.replication.calls();
    assert!(calls.iter().any(|call| call == "primary 0"), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls, ["prepare till", "start till"], "loaded while it waited");
    agent_b.kill();
}

fn place(agents: [&Agent; 2], placement: Placement) {
    for agent in agents {
        agent.pair.inputs.blocking_send(Input::Placement(placement)).unwrap();
    }
}

#[test]
fn a_drained_server_hands_its_vm_over_and_gets_it_back() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let both = [&agent_a, &agent_b];
    place(both, Placement { drained: Some(NodeSlot::A), rebalance: false });
    wait("the VM on B", &both, || b.vms.launches().len() == 1);
    let calls = a.vms.calls();
    assert_eq!(calls.last().map(String::as_str), Some("hand till"), "{calls:?}");
    let calls = a.replication.calls();
    assert_eq!(calls.last().map(String::as_str), Some("secondary 0"), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls, ["prepare till", "receive till", "go on till"], "it never stopped");
    wait("the end of the drain", &both, || {
        let cause = |agent: &Agent| agent.hub.server().pair.cause;
        both.iter().all(|agent| cause(agent).ends_with("Server A is drained."))
    });
    place(both, Placement { drained: None, rebalance: true });
    wait("the VM at home", &both, || a.vms.launches().len() == 2);
    assert_eq!(b.vms.launches().len(), 1);
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_vm_whose_memory_does_not_get_over_is_moved_by_restart() {
    let ((a, b), witness) = (servers(), witness());
    a.vms.break_streams(true);
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let both = [&agent_a, &agent_b];
    place(both, Placement { drained: Some(NodeSlot::A), rebalance: false });
    wait("the VM on B", &both, || b.vms.launches().len() == 1);
    let calls = a.vms.calls();
    assert!(calls.ends_with(&["hand till".into(), "stop till".into()]), "{calls:?}");
    let calls = b.vms.calls();
    assert_eq!(calls.last().map(String::as_str), Some("start till"), "not with half a memory");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn a_dead_server_is_switched_off_by_its_bmc_and_its_vm_starts_at_once() {
    let ((a, mut b), witness) = (servers(), witness());
    let power = Arc::new(FakePower::default());
    b.power = Some(power.clone());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    assert!(power.0.lock().unwrap().is_empty(), "a healthy server was touched");
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(*power.0.lock().unwrap(), ["off"]);
    wait("its return", &[&agent_b], || *power.0.lock().unwrap() == ["off", "on"]);
    let told = agent_b.hub.local().events;
    assert!(told.iter().any(|event| event.text.contains("BMC confirmed twice")), "{told:?}");
    agent_b.kill();
}

#[test]
fn what_a_killed_agent_had_prepared_is_put_away_by_the_next() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    let prepared = |server: &Server| server.vms.calls().iter().any(|call| call == "prepare till");
    wait("the VM prepared", &[&agent_b], || prepared(&b));
    agent_b.kill();
    let agent_b = agent(&b, &witness, 3 << 20);
    wait("it put away", &[&agent_b], || b.vms.calls().iter().any(|call| call == "discard till"));
    assert!(b.vms.launches().is_empty());
    agent_b.kill();
}

#[test]
fn without_a_witness_the_survivor_starts_nothing() {
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("suspicion", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    // Longer than the fencing wait and several questions.
    std::thread::sleep(Duration::from_secs(5));
    assert!(b.vms.launches().is_empty());
    assert_ne!(agent_b.state(), Some(PeerState::Solo));
    witness.up.store(true, Ordering::SeqCst);
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    agent_b.kill();
}

/// Gives an order as the console does; whether it was done, and the words.
fn order(server: &Server, line: &str) -> (bool, String) {
    use std::io::{BufRead as _, Write as _};
    let socket = Paths::under(server.dir.path()).operator_socket();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    (answer["done"].as_bool().unwrap(), answer["text"].as_str().unwrap().to_owned())
}

#[test]
fn an_operators_word_is_refused_in_a_pair_and_helps_when_nothing_else_can() {
    const OFF: &str = "{\"order\":\"declare_peer_off\",\"reason\":\"no power\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&b, OFF);
    assert!(!done && text.contains("is heard"), "{text}");
    let (done, text) = order(&b, "{\"order\":\"format_everything\"}\n");
    assert!(!done && text.contains("No such order"), "{text}");
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("suspicion", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.vms.launches().is_empty());
    let (done, text) = order(&b, OFF);
    assert!(done, "{text}");
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    agent_b.kill();
}

/// What the kernel's helper says, and waits for.
fn helper(server: &Server, event: &str) -> String {
    use std::io::{BufRead as _, Write as _};
    let socket = Paths::under(server.dir.path()).helper_socket();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let line = format!("{{\"event\":\"{event}\",\"resource\":\"minor-0\",\"pid\":1}}\n");
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_left_half_copied_goes_on_with_its_older_copy_by_a_persons_word() {
    const OLDER: &str = "{\"order\":\"use_older_data\",\"reason\":\"A burnt\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&b, OLDER);
    assert!(!done && text.contains("is heard"), "{text}");
    let is = |disk: DiskState, link: LinkState| {
        b.replication.change(0, |status| (status.disk, status.link) = (disk, link));
    };
    // They part, B gives way, and is connected again to be brought up to date.
    a.replication.cut();
    b.replication.cut();
    let made = |call: &str| b.replication.calls().iter().rposition(|made| made == call);
    wait("B connected anew", &[&agent_a, &agent_b], || {
        agent_b.hub.server().pair.in_sync.len() == 1 && made("connect 0") > made("outdate 0")
    });
    is(DiskState::Outdated, LinkState::Negotiating);
    assert_eq!(helper(&b, "before-resync-target"), "{\"exit\":0}\n");
    is(DiskState::Inconsistent, LinkState::SyncTarget);
    agent_a.kill();
    a.replication.change(0, |status| status.link = LinkState::StandAlone);
    b.replication.cut();
    let offered = || agent_b.hub.local().older_data.is_some();
    wait("the copy offered", &[&agent_b], || offered() && agent_b.state() == Some(PeerState::Wait));
    std::thread::sleep(Duration::from_secs(3));
    assert!(b.vms.launches().is_empty(), "half a copy runs");
    let (done, text) = order(&b, OLDER);
    assert!(done, "{text}");
    wait("the VM on B", &[&agent_b], || b.vms.launches().len() == 1);
    let calls = b.replication.calls();
    let at = |call: &str| calls.iter().rposition(|made| made == call).expect("called");
    assert!(at("start_over 0") < at("adopt 0") && at("adopt 0") < at("primary 0"), "{calls:?}");
    let events = agent_b.hub.local().events;
    let bound = events.iter().find(|event| event.code == "put_back").expect("recorded");
    assert!(bound.text.contains("everything up to 20"), "{}", bound.text);
    agent_b.kill();
}

/// A server that was thought to be off comes back with other data: neither takes the other's before a person
/// gives one up.
#[test]
fn of_two_servers_whose_data_differs_one_is_copied_anew_by_a_persons_word() {
    const OFF: &str = "{\"order\":\"declare_peer_off\",\"reason\":\"looks dead\"}\n";
    const GIVE_UP: &str = "{\"order\":\"give_up_data\",\"reason\":\"B has the newer work\"}\n";
    let ((a, b), witness) = (servers(), witness());
    let (agent_a, agent_b) = healthy(&a, &b, &witness);
    let (done, text) = order(&a, GIVE_UP);
    assert!(!done && text.contains("has not diverged"), "{text}");
    witness.up.store(false, Ordering::SeqCst);
    agent_a.kill();
    b.replication.cut();
    wait("B frozen", &[&agent_b], || agent_b.state() == Some(PeerState::Suspect));
    wait("the word taken", &[&agent_b], || order(&b, OFF).0);
    wait("the VM on B", &[&agent_b], || b.vms.launches().len() == 1);
    // A runs all the while; its kernel finds out when they meet.
    a.replication.diverge();
    for side in [&a, &b] {
        side.replication.change(0, |status| status.link = LinkState::StandAlone);
    }
    let agent_a = agent(&a, &witness, 3 << 20);
    wait("A out of it", &[&agent_a, &agent_b], || agent_a.state() == Some(PeerState::Wait));
    for side in [&a, &b] {
        assert_eq!(helper(side, "split-brain"), "{\"exit\":0}\n");
    }
    wait("a choice for a person", &[&agent_a, &agent_b], || agent_a.hub.local().diverged);
    let made = |call: &str| a.replication.calls().iter().rposition(|made| made == call);
    assert_eq!(made("start_over 0"), None, "nobody asked");
    let (done, text) = order(&a, GIVE_UP);
    assert!(done, "{text}");
    assert!(made("start_over 0") < made("attach 0") && made("attach 0") < made("connect 0"));
    let told = |code: &str| agent_a.hub.local().events.iter().any(|event| event.code == code);
    assert!(told("given_up") && !told("copy_not_kept"));
    wait("connected", &[&agent_a, &agent_b], || {
        !agent_a.hub.local().diverged
            && b.replication.calls().iter().any(|call| call == "connect 0")
    });
    assert_eq!(b.vms.launches().len(), 1, "B's VM runs on");
    assert!(!b.replication.calls().iter().any(|call| call == "start_over 0"), "B keeps its data");
    agent_a.kill();
    agent_b.kill();
}

#[test]
fn with_a_witness_on_site_a_dead_server_s_vm_starts_on_the_other_without_hq() {
    let ((a, b), witness) = (servers(), witnesses(Some(Mutex::new(WitnessState::new(2)))));
    witness.up.store(false, Ordering::SeqCst);
    let (agent_a, agent_b) = (agent(&a, &witness, 1 << 20), agent(&b, &witness, 2 << 20));
    let local = || witness.local.as_ref().unwrap().lock().unwrap().record.clone();
    wait("a pair known on site", &[&agent_a, &agent_b], || {
        local().in_sync.len() == 2 && a.vms.launches().len() == 1 && knows_witness(&b)
    });
    agent_a.kill();
    b.replication.cut();
    wait("the takeover", &[&agent_b], || b.vms.launches().len() == 1);
    assert_eq!(local().winner, Some(NodeSlot::B));
    assert_eq!(witness.state.lock().unwrap().record.version, 0, "HQ was not asked");
    agent_b.kill();
}
