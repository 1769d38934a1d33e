// SPDX-License-Identifier: Apache-2.0
//! An enrolled server: HQ, tunnels, templates, volumes and the pair, all started here.

use crate::bmc::watch::{Keeper, PeerBmc};
use crate::enrol::backoff::Backoff;
use crate::enrol::flow::client_for;
use crate::enrol::renew::Renewer;
use crate::hq::client::{HqClient, error_chain};
use crate::hq::poll::{self, Poller};
use crate::hq::report;
use crate::hq::tls::{TlsMemory, client_config};
use crate::hq::witnesses::Witnesses;
use crate::identity::key::{DeviceKey, KeyError};
use crate::identity::record::EnrolmentRecord;
use crate::pair::start::{PairParts, reset, start};
use crate::paths::Paths;
use crate::peer::chunks::Shelf;
use crate::peer::link::{Ends, PeerLink};
use crate::peer::memory::MemoryLink;
use crate::run::{Glue, Pulse};
use crate::status::{Concern, Hub};
use crate::templates::counters::Ledger;
use crate::templates::install::Installer;
use crate::templates::peer_source::PeerShelf;
use crate::vms::fill::Guard;
use crate::vms::registry::Registry;
use agent_core::{Config, DesiredVm, Input, Placement};
use anyhow::Context as _;
use hypervisor_glue::network::{Network, TunnelKeys, TunnelPlan, tunnel_address};
use provisioning_catalogue::client::{Catalogue, CatalogueConfig};
use provisioning_catalogue::source::HttpChunks;
use provisioning_protocol::desired::Desired;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::{PEER_CHUNK_PORT, Path};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Tunnels are brought to their plan again this often, whatever changed.
const TUNNEL_PERIOD: Duration = Duration::from_secs(300);

/// What an enrolled server starts with.
pub struct SiteParts {
    /// Files.
    pub paths: Paths,
    /// Hands.
    pub glue: Glue,
    /// Device key.
    pub key: Arc<DeviceKey>,
    /// Who we are.
    pub record: EnrolmentRecord,
    /// Tunnel keys.
    pub tunnel: TunnelKeys,
    /// TLS memory.
    pub memory: Arc<TlsMemory>,
    /// Status.
    pub hub: Arc<Hub>,
    /// The loop's pulse.
    pub pulse: Pulse,
}

/// Runs until the agent shall be started anew, with a renewed certificate.
///
/// # Errors
/// If what is needed to run at all cannot be opened.
pub async fn run(parts: SiteParts) -> anyhow::Result<()> {
    let SiteParts { paths, glue, key, record, tunnel, memory, hub, pulse } = parts;
    let slot = record.slot;
    let boot = random()?;
    let hq = client_for(&record, &key, memory.clone())?;
    let kept = poll::load(&paths.desired())
        .filter(|kept| kept.site == record.site && kept.slot == record.slot);
    let (desired_in, desired) = watch::channel(kept);
    let witness = Arc::new(Witnesses::new(&record, &key, &memory, desired.clone(), hub.clone())?);

    let registry = Arc::new(Registry::open(paths.ready_vms())?);
    if let Some(kept) = &*desired.borrow() {
        registry.want(kept.vms.iter().map(|vm| vm.name.clone()));
    }
    let bmc = PeerBmc::default();
    let (guard, fill) = Guard::new(glue.volumes.clone(), hub.clone());
    let pair = start(PairParts {
        site: record.site.clone(),
        config: Config::new(slot, boot),
        paths: paths.clone(),
        glue: glue.clone(),
        registry: registry.clone(),
        fill: fill.clone(),
        witness,
        power: Arc::new(bmc.clone()),
        link: PeerLink::new(record.site.clone(), slot, boot, &in_tunnels(slot)),
        memory: MemoryLink::in_tunnels(record.site.clone(), slot),
        hub: hub.clone(),
        pulse,
        reset,
    })
    .await?;
    tokio::spawn(forward(
        desired.clone(),
        pair.inputs.clone(),
        hub.clone(),
        registry.clone(),
        pair.look.clone(),
    ));
    let inputs = pair.inputs.clone();
    tokio::spawn(Keeper { bmc, desired: desired.clone(), inputs, hub: hub.clone() }.run());
    tokio::spawn(tunnels(glue.network.clone(), tunnel, slot, desired.clone(), hub.clone()));

    let shelf = Shelf::default();
    for path in Path::BOTH {
        let at = SocketAddr::new(IpAddr::V6(tunnel_address(path, slot)), PEER_CHUNK_PORT);
        tokio::spawn(shelf.clone().serve(at));
    }
    let installer = installer(&paths, &glue, &record, &hq, shelf, memory.clone(), &hub).await?;
    tokio::spawn(guard.run());
    tokio::spawn(crate::vms::capacity::run(registry.clone(), hub.clone()));
    let provisioner = crate::vms::provision::Provisioner {
        templates: Arc::new(installer),
        volumes: glue.volumes.clone(),
        fill,
        keeper: pair.keeper.clone(),
        replication: glue.replication.clone(),
        registry,
        hub: hub.clone(),
        inputs: pair.inputs.clone(),
        changed: pair.look.clone(),
    };
    tokio::spawn(provisioner.run(desired));
    tokio::spawn(report::run(hq.clone(), hub.clone(), boot));
    let identity_dir = paths.identity_dir();
    let record = Arc::new(Mutex::new(record));
    let renewer = Renewer {
        hq: hq.clone(),
        key,
        record: record.clone(),
        identity_dir: identity_dir.clone(),
        memory: memory.clone(),
        hub: hub.clone(),
    };
    let poller =
        Poller { hq, path: paths.desired(), hub, memory, record, identity_dir, out: desired_in };
    tokio::spawn(poller.run());
    tokio::select! {
        ended = pair.engine => ended.context("the pair loop has ended"),
        // The next start of the agent uses the new certificate.
        () = renewer.run() => Ok(()),
    }
}

/// A number nothing had before.
pub(crate) fn random() -> Result<u64, KeyError> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| KeyError::Crypto("give random bytes"))?;
    // JSON numbers of other languages are exact up to 2^53.
    Ok(u64::from_be_bytes(bytes) >> 12)
}

fn in_tunnels(slot: NodeSlot) -> [(Path, Ends); 2] {
    Path::BOTH.map(|path| (path, Ends::in_tunnel(path, slot)))
}

async fn installer(
    paths: &Paths,
    glue: &Glue,
    record: &EnrolmentRecord,
    hq: &HqClient,
    shelf: Shelf,
    memory: Arc<TlsMemory>,
    hub: &Arc<Hub>,
) -> anyhow::Result<Installer> {
    let slot = record.slot;
    let config = CatalogueConfig {
        folder: paths.tuf_dir(),
        root_json: record.owner.tuf_root_json.clone().into_bytes(),
        hq_urls: record.owner.hq_urls.iter().filter_map(|url| url.parse().ok()).collect(),
        http: hq.http().clone(),
    };
    let catalogue = Catalogue::open(config).await.context("cannot open the catalogue")?;
    let ledger = Ledger::open(paths.counters(), paths.floors())?;
    hub.update(|state| {
        state.wan_bytes = ledger.counters.wan_bytes;
        state.peer_bytes = ledger.counters.peer_bytes;
    });
    let chunks: url::Url = format!("{}/chunks", hq.url()).parse().context("HQ's address")?;
    // Plain HTTP inside the tunnels; but without a TLS configuration the builder would look for
    // the system's CA certificates, and fail on an image that has none.
    let tls = client_config(&record.owner.hq_root_ca_pem, memory.clone(), None)?;
    let plain = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .connect_timeout(Duration::from_secs(2))
        .build()
        .context("cannot set up the client for the peer")?;
    let bases = Path::BOTH
        .map(|path| format!("http://[{}]:{PEER_CHUNK_PORT}", tunnel_address(path, slot.peer())));
    Ok(Installer {
        slot,
        volumes: glue.volumes.clone(),
        catalogue: tokio::sync::Mutex::new(catalogue),
        ledger: Mutex::new(ledger),
        shelf,
        peer: PeerShelf::new(plain, bases.to_vec()),
        hq: Arc::new(HttpChunks::hq(chunks, hq.http().clone())),
        memory,
        hub: hub.clone(),
    })
}

/// Tells the core which VMs HQ wants, first from the kept copy.
async fn forward(
    mut desired: watch::Receiver<Option<Desired>>,
    inputs: mpsc::Sender<Input>,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
    look: Arc<Notify>,
) {
    loop {
        let now = desired.borrow_and_update().clone();
        if let Some(now) = now {
            let vms = now.vms.iter().map(|vm| DesiredVm {
                name: vm.name.clone(),
                home: vm.home,
                weight: 1,
            });
            drop(inputs.send(Input::Desired(vms.collect())).await);
            drop(inputs.send(Input::LocalWitness(now.local_witness.is_some())).await);
            let placement = Placement { drained: now.drained, rebalance: now.rebalance };
            drop(inputs.send(Input::Placement(placement)).await);
            registry.want(now.vms.iter().map(|vm| vm.name.clone()));
            look.notify_one();
            hub.update(|state| {
                state.revision = now.revision;
                state.vms.retain(|name, _| now.vms.iter().any(|vm| vm.name == *name));
            });
        }
        if desired.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps tunnels and replication address at what the roster says.
async fn tunnels(
    network: Arc<dyn Network>,
    keys: TunnelKeys,
    slot: NodeSlot,
    mut desired: watch::Receiver<Option<Desired>>,
    hub: Arc<Hub>,
) {
    let mut backoff = Backoff::capped(10);
    loop {
        let plan = desired.borrow_and_update().as_ref().and_then(|now| plan(now, &keys));
        let path = hub.read(|state| state.pair.as_ref().map_or(Path::Cable, |p| p.replication));
        let wait = match configure(&*network, slot, plan.as_ref(), path).await {
            Ok(()) => {
                backoff.reset();
                hub.problem(Concern::Network, "tunnels", None);
                TUNNEL_PERIOD
            }
            Err(err) => {
                let words = format!("The tunnels to the other server: {}", error_chain(&err));
                tracing::warn!(error = words, "tunnels not set up");
                hub.problem(Concern::Network, "tunnels", Some(words));
                backoff.next_wait()
            }
        };
        drop(tokio::time::timeout(wait, desired.changed()).await);
    }
}

async fn configure(
    network: &dyn Network,
    slot: NodeSlot,
    plan: Option<&TunnelPlan>,
    path: Path,
) -> hypervisor_glue::Result<()> {
    network.configure(Some(slot)).await?;
    let Some(plan) = plan else { return Ok(()) };
    network.tunnels(plan).await?;
    // The core's orders to switch come to nothing while there are no tunnels.
    match network.replication_path(slot).await? {
        Some(_) => Ok(()),
        None => network.route_replication(slot, path).await,
    }
}

fn plan(desired: &Desired, keys: &TunnelKeys) -> Option<TunnelPlan> {
    let peer = desired.peer()?;
    if peer.wg_public_key.is_empty() {
        return None;
    }
    Some(TunnelPlan {
        slot: desired.slot,
        keys: keys.clone(),
        peer_public: peer.wg_public_key.clone(),
        peer_lan: peer.lan_addresses.iter().find_map(|text| text.parse().ok()),
    })
}
