// SPDX-License-Identifier: Apache-2.0
//! `forecourt-agent`: `run` (the default), `net-setup`, `version`.

use agent_daemon::hq::client::error_chain;
use agent_daemon::identity::record::EnrolmentRecord;
use agent_daemon::paths::Paths;
use agent_daemon::run::{self, Glue};
use anyhow::{Context as _, bail};
use hypervisor_glue::HostRunner;
use hypervisor_glue::network::{HostNetwork, Network as _};
use hypervisor_glue::replication::DrbdReplication;
use hypervisor_glue::vms::SystemdVms;
use hypervisor_glue::volumes::LvmVolumes;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const USAGE: &str = "usage: forecourt-agent [run | net-setup | version]";

fn main() -> ExitCode {
    // First of all: two providers in one process make every TLS builder panic.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["run"] => start(async { run::run(Paths::default(), glue().await?).await }),
        ["net-setup"] => start(net_setup()),
        ["version"] | ["--version"] => {
            println!("forecourt-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            tracing::error!(error = error_chain(err.as_ref()), "agent stopped");
            eprintln!("forecourt-agent: {}", error_chain(err.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn start(job: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread()
        // The pair loop must tick while others compute, on a server with one CPU, too.
        .worker_threads(4)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(job)
}

async fn glue() -> anyhow::Result<Glue> {
    let runner = Arc::new(HostRunner);
    Ok(Glue {
        volumes: Arc::new(LvmVolumes::new(runner.clone())),
        replication: Arc::new(DrbdReplication::new(runner.clone())),
        vms: Arc::new(SystemdVms::connect().await?),
        network: Arc::new(HostNetwork::new(runner)),
    })
}

/// How long a server may take to show its first network card.
const NICS_WAIT_MAX: Duration = Duration::from_secs(90);
/// How long a second one, for the cable, is waited for.
const SECOND_NIC_WAIT: Duration = Duration::from_secs(15);

/// NICs, bridge and cable address, before the network comes up.
async fn net_setup() -> anyhow::Result<()> {
    let record = EnrolmentRecord::load(&Paths::default().identity_dir()).unwrap_or_default();
    let slot = record.map(|record| record.slot);
    let network = HostNetwork::new(Arc::new(HostRunner));
    let asked = tokio::time::Instant::now();
    // The kernel finds network cards in its own time: one card is believed to be all there is
    // only after a while.
    let roles = loop {
        let roles = network.configure(slot).await?;
        let waited = asked.elapsed();
        if roles.cable.is_some() || waited > NICS_WAIT_MAX {
            break roles;
        }
        if roles.lan.is_some() && waited > SECOND_NIC_WAIT {
            break roles;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let Some(lan) = roles.lan else { bail!("this server has no network card") };
    let cable = roles.cable.map(|nic| nic.name);
    tracing::info!(lan = lan.name, ?cable, ?slot, "network set up");
    Ok(())
}
