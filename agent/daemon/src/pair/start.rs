// SPDX-License-Identifier: Apache-2.0
//! Brings the pair up: state from disk, VMs that run already, all workers, then the loop.

use super::engine::{Engine, INPUTS_MAX, durable};
use super::executor::{Executor, Parts, WitnessPort};
use super::helper::Helpers;
use super::keep::{Keeper, KeeperParts, PATIENCE};
use super::live;
use super::monitor::Monitor;
use super::operator::Operator;
use super::socket;
use super::verify::Verifier;
use super::volumes::VolumeHands;
use super::watchdog::Watchdog;
use crate::bmc::PowerPort;
use crate::durable::slots::Slots;
use crate::hq::client::error_chain;
use crate::paths::Paths;
use crate::peer::link::PeerLink;
use crate::peer::memory::MemoryLink;
use crate::run::{Glue, Pulse};
use crate::status::{Concern, Hub};
use crate::vms::fill::Fill;
use crate::vms::registry::Registry;
use crate::vms::watch::Watch;
use agent_core::{BootFacts, Config, Core, Input, VmRun};
use anyhow::Context as _;
use hypervisor_glue::replication::{ReplicaStatus, Role};
use hypervisor_glue::vms::{Accel, Vms};
use provisioning_protocol::ids::{SiteName, VmName};
use provisioning_protocol::peer::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The probe of virtualization waits for the volumes at most this long.
const PROBE_WAIT: Duration = Duration::from_secs(120);
const PROBE_POLL: Duration = Duration::from_millis(250);

/// What the pair is made of.
pub struct PairParts {
    /// The site.
    pub site: SiteName,
    /// The core's place and times; its nonce is this run of the agent.
    pub config: Config,
    /// Files.
    pub paths: Paths,
    /// Hands.
    pub glue: Glue,
    /// VMs with volumes.
    pub registry: Arc<Registry>,
    /// How full the pool is.
    pub fill: watch::Receiver<Fill>,
    /// The witness.
    pub witness: Arc<dyn WitnessPort>,
    /// The other server's power.
    pub power: Arc<dyn PowerPort>,
    /// The peer.
    pub link: PeerLink,
    /// The way VMs' memory goes to and from it.
    pub memory: MemoryLink,
    /// Status.
    pub hub: Arc<Hub>,
    /// The loop's pulse.
    pub pulse: Pulse,
    /// Resets the server.
    pub reset: fn(),
}

/// Between two looks at volumes being compared.
const COMPARE_POLL: Duration = Duration::from_secs(2);

/// A pair that runs.
pub struct Pair {
    /// What workers tell the core.
    pub inputs: mpsc::Sender<Input>,
    /// Makes the replication monitor look.
    pub look: Arc<Notify>,
    /// Copies from before a resync.
    pub keeper: Keeper,
    /// The loop.
    pub engine: JoinHandle<()>,
}

/// Starts everything.
///
/// # Errors
/// If the durable state cannot be read at all, or the helper socket cannot be made.
pub async fn start(parts: PairParts) -> anyhow::Result<Pair> {
    let PairParts {
        site,
        config,
        paths,
        glue,
        registry,
        fill,
        witness,
        power,
        link,
        memory,
        hub,
        pulse,
        reset,
    } = parts;
    let slot = config.slot;
    let (slots, payload) = Slots::open(&paths.state_dir(), "pair").context("pair state")?;
    if payload.is_none() && slots.any_file() {
        let words = "The pair's state on this server is damaged: it rejoins from the other server";
        hub.event("state_lost", words);
        hub.problem(Concern::State, "slots", Some(words.to_owned()));
    }
    let (inputs, queue) = mpsc::channel(INPUTS_MAX);
    let look = Arc::new(Notify::new());
    let watch = Watch::new(glue.vms.clone(), registry.clone(), hub.clone(), inputs.clone());
    let mut vms = watch.adopt().await.context("VMs running here")?;
    // Before the kernel module is loaded there is no status, and nothing is primary.
    let replicas = glue.replication.status().await.unwrap_or_default();
    left_primary(&replicas, &registry, &mut vms);
    let facts = BootFacts {
        durable: durable(payload),
        vms,
        path: glue.network.replication_path(slot).await.ok().flatten().unwrap_or(Path::Cable),
    };
    let keeper = Keeper::start(KeeperParts {
        volumes: glue.volumes.clone(),
        replication: glue.replication.clone(),
        registry: registry.clone(),
        hub: hub.clone(),
        fill,
        file: paths.held(),
        patience: PATIENCE,
    });
    let (replication, told) = (glue.replication.clone(), inputs.clone());
    let helpers = Helpers::new(registry.clone(), replication, keeper.clone(), told);
    let listener = socket::bind(&paths.helper_socket()).context("helper socket")?;
    let orders = socket::bind(&paths.operator_socket()).context("operator socket")?;
    tokio::spawn(Operator::new(hub.clone(), inputs.clone()).serve(orders));
    let split_brain = helpers.split_brain();
    tokio::spawn(helpers.clone().serve(listener));
    link.listen(&inputs);
    live::take_in(&memory, glue.vms.clone());
    let parts = Parts {
        site,
        slot,
        slots,
        link,
        witness,
        power,
        helpers,
        watchdog: Watchdog::start(paths.watchdog_socket(), inputs.clone(), hub.clone()),
        hands: VolumeHands {
            replication: glue.replication.clone(),
            registry: registry.clone(),
            keeper: keeper.clone(),
        },
        vms: glue.vms.clone(),
        memory,
        watch: watch.clone(),
        network: glue.network.clone(),
        accel: probe(glue.vms.clone(), hub.clone(), registry.clone()),
        hub: hub.clone(),
        inputs: inputs.clone(),
        look: look.clone(),
        reset,
    };
    let engine = Engine::new(Core::new(config), Executor::new(parts), hub.clone());
    let engine = tokio::spawn(engine.run(facts, queue, move || pulse.beat()));
    tokio::spawn(watch.run());
    let verifier = Verifier {
        slot,
        replication: glue.replication.clone(),
        hub: hub.clone(),
        file: paths.compared(),
        poll: COMPARE_POLL,
    };
    tokio::spawn(verifier.run());
    let monitor = Monitor {
        slot,
        replication: glue.replication,
        registry,
        keeper: keeper.clone(),
        hub,
        inputs: inputs.clone(),
        changed: look.clone(),
        split_brain,
    };
    tokio::spawn(monitor.run(replicas));
    Ok(Pair { inputs, look, keeper, engine })
}

/// VMs without a QEMU whose volumes an earlier agent left primary.
fn left_primary(statuses: &[ReplicaStatus], registry: &Registry, vms: &mut Vec<(VmName, VmRun)>) {
    for status in statuses.iter().filter(|status| status.role == Role::Primary) {
        match registry.owner_of(status.number) {
            Some(vm) if vms.iter().all(|(name, _)| *name != vm) => {
                vms.push((vm, VmRun::Stopped));
            }
            _ => {}
        }
    }
}

/// Finds out how guests run. Volumes that exist come first: a server that rejoins its peer is in more
/// of a hurry than a VM that cannot start before.
fn probe(
    vms: Arc<dyn Vms>,
    hub: Arc<Hub>,
    registry: Arc<Registry>,
) -> watch::Receiver<Option<Accel>> {
    let (found, accel) = watch::channel(None);
    tokio::spawn(async move {
        let until = Instant::now() + PROBE_WAIT;
        while registry.awaited() > 0 && Instant::now() < until {
            sleep(PROBE_POLL).await;
        }
        let probed = vms.probe_accel().await.unwrap_or_else(|err| {
            tracing::warn!(error = error_chain(&err), "virtualization not probed");
            Accel::Tcg
        });
        hub.event("accel", format!("guests run with {probed:?}"));
        let _ = found.send(Some(probed));
        // The value lives as long as someone may start a VM.
        found.closed().await;
    });
    accel
}

/// Resets this server at once, as the core ordered: not even a sync, which could hang.
pub fn reset() {
    tracing::error!("resetting this server");
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", "b") {
        tracing::error!(%error, "sysrq refused; leaving it to the watchdog");
        std::process::abort();
    }
}
