// SPDX-License-Identifier: Apache-2.0
//! `forecourt-hq`: makes an HQ, serves it, writes the owner bundle.

use anyhow::Context;
use clap::{Parser, Subcommand};
use provisioning_hq::clock::Clock;
use provisioning_hq::files::Folder;
use provisioning_hq::{init, serve};
use provisioning_protocol::owner::OwnerBundle;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// The HQ server of a Forecourt fleet.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an HQ in an empty folder: certificates, keys, operator token
    Init {
        /// HQ's folder
        #[arg(long)]
        dir: PathBuf,
        /// A name or IP address servers and operators reach HQ by; may be repeated
        #[arg(long = "address", required = true)]
        addresses: Vec<String>,
        /// Base URL that claim sticks name, such as https://hq.example:443; may be repeated
        #[arg(long = "url")]
        urls: Vec<String>,
    },
    /// Serve agents, operators and the dashboard
    Serve {
        /// HQ's folder
        #[arg(long)]
        dir: PathBuf,
        /// Address and port to listen on; port 0 picks a free one
        #[arg(long, default_value = "127.0.0.1:8443")]
        listen: SocketAddr,
    },
    /// Write owner.json for claim sticks
    OwnerBundle {
        /// HQ's folder
        #[arg(long)]
        dir: PathBuf,
        /// File to write
        #[arg(long)]
        out: PathBuf,
        /// The catalogue's root.json
        #[arg(long)]
        tuf_root: PathBuf,
        /// Base URL to name instead of those given at init; may be repeated
        #[arg(long = "url")]
        urls: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("the TLS provider is set twice"))?;
    match Args::parse().command {
        Command::Init { dir, addresses, urls } => {
            let folder = Folder::new(dir);
            init::init(&folder, &addresses, &urls)?;
            print!("{}", init::next_steps(&folder));
            Ok(())
        }
        Command::Serve { dir, listen } => run(&Folder::new(dir), listen),
        Command::OwnerBundle { dir, out, tuf_root, urls } => {
            owner_bundle(&Folder::new(dir), &out, &tuf_root, urls)
        }
    }
}

#[tokio::main]
async fn run(folder: &Folder, listen: SocketAddr) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,sqlx=warn".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        log.init();
    } else {
        log.json().init();
    }
    let app = serve::open(folder, Clock::default()).await?;
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("{listen} cannot be listened on"))?;
    // The one line on standard output: scripts wait for it and read the port.
    println!("listening on https://{}", listener.local_addr()?);
    tracing::info!(address = %listener.local_addr()?, dir = %folder.root().display(), "serving");
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
    };
    serve::run(folder, app, listener, stop).await
}

fn owner_bundle(
    folder: &Folder,
    out: &std::path::Path,
    tuf_root: &std::path::Path,
    urls: Vec<String>,
) -> anyhow::Result<()> {
    let tuf_root_json = std::fs::read_to_string(tuf_root)
        .with_context(|| format!("{} cannot be read", tuf_root.display()))?;
    let mut bundle: OwnerBundle = serve::owner(folder)?;
    bundle.tuf_root_json = tuf_root_json;
    if !urls.is_empty() {
        bundle.hq_urls = urls;
    }
    anyhow::ensure!(!bundle.hq_urls.is_empty(), "no HQ URL was given at init; give --url");
    std::fs::write(out, serde_json::to_vec_pretty(&bundle)?)
        .with_context(|| format!("{} cannot be written", out.display()))
}
