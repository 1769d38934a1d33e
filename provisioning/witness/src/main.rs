// SPDX-License-Identifier: Apache-2.0
//! `forecourt-witness`: the witness on site. Needs no privilege but its folder and its port.

use anyhow::Context as _;
use clap::Parser;
use provisioning_witness::store::{Found, Store};
use provisioning_witness::{bundle, serve};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;

/// Remembers which of a site's two servers may go on alone.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Args {
    /// Folder of the record; never back it up
    #[arg(long)]
    dir: PathBuf,
    /// What `forecourt witness box` wrote for this site; else bundle.json in the folder
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// Where to listen; else the bundle's address
    #[arg(long)]
    listen: Option<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let file = args.bundle.unwrap_or_else(|| args.dir.join("bundle.json"));
    let bundle = bundle::read(&file)?;
    let store = Store::open(&args.dir.join("record"), &bundle.site)?;
    match store.found() {
        Found::Whole | Found::Torn | Found::New => {}
        Found::Damaged => tracing::warn!("the record was damaged: the pair must register again"),
        Found::Restored => {
            tracing::warn!("the folder is a copy or was moved: the pair must register again");
        }
    }
    let at = args.listen.unwrap_or(bundle.address);
    let listener = TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?;
    println!("listening on {}", listener.local_addr().context("own address")?);
    serve::serve(listener, bundle, store).await
}
