// SPDX-License-Identifier: Apache-2.0
//! `forecourt-witness`: the witness on site. Needs no privilege but its folder and its port.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use http::Uri;
use provisioning_witness::identity::Identity;
use provisioning_witness::store::{Found, Store};
use provisioning_witness::{enrol, serve};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;

/// Remembers which of a site's two servers may go on alone.
#[derive(Parser)]
#[command(name = "forecourt-witness", version, about, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make this box the witness of a site, with what `forecourt witness box` said
    Enrol {
        /// Folder for its keys and its record; never back it up
        #[arg(long)]
        dir: PathBuf,
        /// HQ's address
        #[arg(long)]
        hq: Uri,
        /// SHA-256 of HQ's issuing CA
        #[arg(long)]
        ca_sha256: String,
        /// The claim code
        #[arg(long)]
        code: String,
    },
    /// Serve the site's two servers
    Run {
        /// Folder of an enrolled box
        #[arg(long)]
        dir: PathBuf,
        /// Where to listen; else where HQ was told
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Args::parse().what {
        What::Enrol { dir, hq, ca_sha256, code } => {
            let given = enrol::enrol(&dir, &hq, &ca_sha256, &code).await?;
            println!("this box is the witness of site {}", given.site);
            println!("now run: forecourt-witness run --dir {}", dir.display());
            Ok(())
        }
        What::Run { dir, listen } => run(&dir, listen).await,
    }
}

async fn run(dir: &Path, listen: Option<SocketAddr>) -> anyhow::Result<()> {
    let identity = Identity::load(dir)?;
    let store = Store::open(&dir.join("record"), &identity.admission.site)?;
    match store.found() {
        Found::Whole | Found::Torn | Found::New => {}
        Found::Damaged => tracing::warn!("the record was damaged: the pair must register again"),
        Found::Restored => {
            tracing::warn!("the folder is a copy or was moved: the pair must register again");
        }
    }
    let at = listen.unwrap_or(identity.admission.address);
    let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
    println!("listening on {}", listener.local_addr().context("own address")?);
    serve::serve(listener, &identity, store).await
}
