// SPDX-License-Identifier: Apache-2.0
//! `forecourt-agent run`: identity first, then HQ, then the pair. Nothing here waits for HQ once
//! the server is enrolled.

use crate::durable::causes::Causes;
use crate::enrol::flow::Enroller;
use crate::hq::client::error_chain;
use crate::hq::tls::TlsMemory;
use crate::identity::hardware::{self, Hardware};
use crate::identity::key::DeviceKey;
use crate::identity::record::EnrolmentRecord;
use crate::identity::{clock, stick};
use crate::past;
use crate::paths::Paths;
use crate::site::{self, SiteParts};
use crate::status::hub::Fixed;
use crate::status::{Concern, Hub, writer};
use anyhow::Context as _;
use hypervisor_glue::network::{Network, TunnelKeys};
use hypervisor_glue::replication::Replication;
use hypervisor_glue::vms::Vms;
use hypervisor_glue::volumes::Volumes;
use provisioning_protocol::status::Enrolment;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ADDRESS_PERIOD: Duration = Duration::from_secs(10);
const ADDRESS_RETRY: Duration = Duration::from_secs(1);
/// How long a start may take, microseconds.
const START_USEC_MAX: u32 = 300_000_000;
/// A pair loop that has not ticked for this long is not alive.
const LOOP_MS_MAX: u64 = 3000;

/// The server's hands: real ones, or fakes in tests.
#[derive(Clone)]
pub struct Glue {
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
    /// Replication.
    pub replication: Arc<dyn Replication>,
    /// VMs.
    pub vms: Arc<dyn Vms>,
    /// Network.
    pub network: Arc<dyn Network>,
}

/// When the pair loop last ticked, milliseconds since boot; 0 before it runs.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop lives.
    pub fn beat(&self) {
        self.0.store(hardware::boot_ms(), Ordering::Relaxed);
    }

    fn alive(&self) -> bool {
        let at = self.0.load(Ordering::Relaxed);
        at == 0 || hardware::boot_ms().saturating_sub(at) < LOOP_MS_MAX
    }
}

/// Runs until the process is stopped, or shall be started anew.
///
/// # Errors
/// If the server has no place to keep its identity.
pub async fn run(paths: Paths, glue: Glue) -> anyhow::Result<()> {
    // A slow server must not be killed while it makes its keys.
    drop(sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(START_USEC_MAX)]));
    paths.create().context("cannot make the agent's folders")?;
    let key = Arc::new(DeviceKey::load_or_make(&paths.identity_dir())?);
    let tunnel = glue.network.tunnel_keys(&paths.identity_dir().join("tunnel.key")).await?;
    let hardware = hardware::read(Path::new("/"), &key.fingerprint());
    let image = hardware::image_version(Path::new("/"));
    let hub = make_hub(&paths, &key, &hardware, &image, &tunnel);
    tokio::spawn(writer::run(hub.clone(), paths.status()));
    tokio::spawn(addresses(glue.network.clone(), hub.clone()));
    let pulse = Pulse::default();
    tokio::spawn(notify(pulse.clone()));
    past::begin(&paths, &hub);
    hub.event("agent_started", format!("agent {} started", env!("CARGO_PKG_VERSION")));

    let memory = Arc::new(TlsMemory::default());
    let record = match known(&paths, &hub) {
        Some(record) => record,
        None => enrol(&paths, &key, hardware, image, &memory, &hub).await,
    };
    let floor = record.owner.build_epoch_s.max(record.time_floor_s);
    let trusted = clock::plausible(clock::now_s(), floor);
    memory.set_clock_trusted(trusted);
    hub.update(|state| {
        state.enrolment = Enrolment::Done;
        state.site = Some(record.site.clone());
        state.slot = Some(record.slot);
        state.clock_trusted = trusted;
        state.hq_url = record.owner.hq_urls.first().cloned().unwrap_or_default();
    });
    site::run(SiteParts { paths, glue, key, record, tunnel, memory, hub, pulse }).await
}

fn make_hub(
    paths: &Paths,
    key: &DeviceKey,
    hardware: &Hardware,
    image: &str,
    tunnel: &TunnelKeys,
) -> Arc<Hub> {
    let fixed = Fixed {
        serial: hardware.serial.clone(),
        fingerprint: key.fingerprint(),
        image: image.to_owned(),
        wg_public_key: tunnel.public.clone(),
    };
    Arc::new(Hub::new(fixed, Causes::new(paths.causes(), &paths.cause_link())))
}

/// The enrolment record; a damaged one is as good as none: HQ knows the key again.
fn known(paths: &Paths, hub: &Hub) -> Option<EnrolmentRecord> {
    match EnrolmentRecord::load(&paths.identity_dir()) {
        Ok(record) => record,
        Err(err) => {
            let text = error_chain(&err);
            tracing::error!(error = text, "enrolment record unusable");
            hub.event("enrolment_lost", format!("the enrolment record is unusable: {text}"));
            None
        }
    }
}

async fn enrol(
    paths: &Paths,
    key: &Arc<DeviceKey>,
    hardware: Hardware,
    image: String,
    memory: &Arc<TlsMemory>,
    hub: &Arc<Hub>,
) -> EnrolmentRecord {
    let enroller = Enroller {
        identity_dir: paths.identity_dir(),
        key: key.clone(),
        hardware,
        image,
        memory: memory.clone(),
        set_clock: clock::set,
    };
    let mount_point = paths.stick();
    let mut last = String::new();
    let record = enroller
        .run(
            || stick::read_stick(&mount_point),
            |stick, err| {
                let text = error_chain(err);
                if text != last {
                    tracing::warn!(error = text, "not enrolled yet");
                    last.clone_from(&text);
                }
                hub.update(|state| {
                    state.enrolment = err.stage();
                    state.hq_error.clone_from(&text);
                    if let Some(url) = stick.and_then(|s| s.owner.hq_urls.first()) {
                        state.hq_url.clone_from(url);
                    }
                });
                hub.problem(Concern::Enrolment, "", Some(text));
            },
        )
        .await;
    hub.problem(Concern::Enrolment, "", None);
    hub.update(|state| state.hq_error.clear());
    let words = format!("enrolled as server {} of site {}", record.slot, record.site);
    hub.event("enrolled", words);
    record
}

async fn addresses(network: Arc<dyn Network>, hub: Arc<Hub>) {
    let mut period = ADDRESS_RETRY;
    loop {
        match network.lan_addresses().await {
            Ok(found) => {
                period = if found.is_empty() { ADDRESS_RETRY } else { ADDRESS_PERIOD };
                let found: Vec<String> = found.iter().take(4).map(ToString::to_string).collect();
                let words = "No address on the LAN yet: check the LAN cable and the DHCP server";
                hub.problem(Concern::Network, "lan", found.is_empty().then(|| words.to_owned()));
                if hub.read(|state| state.lan_addresses != found) {
                    hub.update(|state| state.lan_addresses = found);
                }
            }
            Err(err) => tracing::debug!(error = error_chain(&err), "LAN addresses unknown"),
        }
        tokio::time::sleep(period).await;
    }
}

/// Tells systemd that we are ready, and for as long as the pair loop ticks that we live.
async fn notify(pulse: Pulse) {
    use sd_notify::NotifyState;
    drop(sd_notify::notify(&[NotifyState::Ready]));
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        if pulse.alive() {
            drop(sd_notify::notify(&[NotifyState::Watchdog]));
        }
        tokio::time::sleep(period / 3).await;
    }
}
