// SPDX-License-Identifier: Apache-2.0
//! Starts HQ from its folder.

use crate::app::{App, Inner, Limits};
use crate::clock::Clock;
use crate::db::Db;
use crate::db::witness::Witness;
use crate::files::Folder;
use crate::hub::Hub;
use crate::init::Settings;
use crate::pki::Authority;
use crate::problem::{Failure, chain};
use crate::{agent, catalogue, dashboard, enrol, files, http, jws, operator, pki, tls};
use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use provisioning_catalogue::keys::OnlineKeys;
use provisioning_catalogue::repository::Repository;
use provisioning_protocol::desired::POLL_WAIT_S_MAX;
use provisioning_protocol::owner::OwnerBundle;
use rcgen::{KeyPair, PublicKeyData};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Most requests are done or given up by then.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How often the catalogue's freshness is looked at.
const REFRESH_EVERY: Duration = Duration::from_secs(3600);

/// Opens everything in the folder.
///
/// # Errors
/// What is missing or damaged, with its path.
pub async fn open(folder: &Folder, clock: Clock) -> anyhow::Result<App> {
    let owner = owner(folder)?;
    let voucher_key = jws::signing_key(voucher(folder)?.serialized_der())
        .context("pki/voucher.key is no P-256 key")?;
    let keys = OnlineKeys::open(&folder.at("tuf-online"))?;
    let online_keys = keys.public()?;
    let app = App::new(Inner {
        db: Db::open(folder.root()).await?,
        witness: Witness::open(folder.root()).await?,
        catalogue: Repository::open(&folder.catalogue(), keys)?,
        online_keys,
        root_ca_pem: owner.hq_root_ca_pem.clone(),
        owner,
        issuing: authority(folder)?,
        voucher_key,
        operator_token: read(folder, "operator.token")?.trim().to_owned(),
        hub: Hub::default(),
        clock,
        limits: Limits::default(),
    });
    if app.operator_token.len() < 32 {
        bail!("operator.token is shorter than 32 characters");
    }
    mend(&app).await?;
    Ok(app)
}

/// What a crash between two stores, or a lost file, may have left open.
async fn mend(app: &App) -> anyhow::Result<()> {
    for site in crate::db::sites::list(app.db.reader()).await? {
        // A record that had to be made anew gets another incarnation: servers see that the
        // witness forgot.
        app.witness.create(&site.name, crate::clock::unsigned(app.clock.now_ms())).await?;
    }
    if let Err(failure) = catalogue::sync_templates(app).await
        && failure.code() != "no_root"
    {
        return Err(anyhow!("the catalogue cannot be read; the log says why"));
    }
    Ok(())
}

/// Serves until `stop` ends.
///
/// # Errors
/// If the TLS files cannot be used.
pub async fn run(
    folder: &Folder,
    app: App,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    renew_tls(folder, &app)?;
    let config = tls::config(
        &read(folder, "pki/tls.pem")?,
        &read(folder, "pki/tls.key")?,
        &read(folder, "pki/issuing-ca.pem")?,
    )
    .map_err(|error| anyhow!("HQ's TLS files cannot be used: {error}"))?;
    let refresh = tokio::spawn(refresh(app.clone()));
    tls::serve(listener, Arc::new(config), app.clone(), routes(app), stop).await;
    refresh.abort();
    Ok(())
}

/// Makes a new TLS certificate when the present one has less than a third of its year left.
/// Servers and operators pin the root, so that no one notices.
fn renew_tls(folder: &Folder, app: &App) -> anyhow::Result<()> {
    let now_s = app.clock.now_s();
    let left = tls::seconds_left(&read(folder, "pki/tls.pem")?, now_s)
        .context("pki/tls.pem is no certificate")?;
    if left > 365 * pki::DAY_S / 3 {
        return Ok(());
    }
    let (pem, key) = app.issuing.tls_certificate(&settings(folder)?.addresses, now_s)?;
    // The key goes first: a crash between the two leaves a pair that does not fit, and a start
    // that says so, never a certificate whose key is lost.
    files::replace(&folder.at("pki/tls.key"), key.serialize_pem().as_bytes(), 0o600)?;
    let chain = pem + &app.issuing.cert_pem;
    files::replace(&folder.at("pki/tls.pem"), chain.as_bytes(), 0o644)?;
    tracing::info!("made a new TLS certificate");
    Ok(())
}

/// All addresses.
pub fn routes(app: App) -> Router {
    let limit = |most: Duration| {
        from_fn(move |request: Request, next: Next| http::within(most, request, next))
    };
    let poll = Duration::from_secs(u64::from(POLL_WAIT_S_MAX)) + REQUEST_MAX;
    let quick = Router::new()
        .merge(enrol::routes())
        .merge(operator::routes())
        .merge(dashboard::routes())
        .layer(limit(REQUEST_MAX));
    let slow = Router::new().merge(agent::routes()).merge(catalogue::routes()).layer(limit(poll));
    quick
        .merge(slow)
        .fallback(
            |request: Request| async move { Failure::not_found("address", request.uri().path()) },
        )
        .method_not_allowed_fallback(|request: Request| async move {
            let detail = format!("{} is not answered here", request.method());
            let status = StatusCode::METHOD_NOT_ALLOWED;
            Failure::new(status, "method_not_allowed", "Method not allowed", detail)
        })
        // Bodies are read with limits of our own.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// Signs snapshot and timestamp anew before they grow old.
async fn refresh(app: App) {
    let mut ticks = tokio::time::interval(REFRESH_EVERY);
    loop {
        ticks.tick().await;
        match app.catalogue.refresh(Timestamp::now()).await {
            Ok(true) => tracing::info!("signed the catalogue's snapshot and timestamp anew"),
            Ok(false) => {}
            Err(error) => tracing::error!(cause = %chain(&error), "catalogue not refreshed"),
        }
    }
}

/// The owner bundle, but for the catalogue's root.
///
/// # Errors
/// If the folder holds no HQ.
pub fn owner(folder: &Folder) -> anyhow::Result<OwnerBundle> {
    let settings = settings(folder)?;
    Ok(OwnerBundle {
        v: 1,
        hq_urls: settings.urls,
        hq_root_ca_pem: read(folder, "pki/root-ca.pem")?,
        voucher_keys_spki: vec![BASE64_STANDARD.encode(voucher(folder)?.subject_public_key_info())],
        tuf_root_json: String::new(),
        build_epoch_s: settings.made_s,
    })
}

fn voucher(folder: &Folder) -> anyhow::Result<KeyPair> {
    KeyPair::from_pem(&read(folder, "pki/voucher.key")?)
        .context("pki/voucher.key is no private key")
}

/// What was said at init.
///
/// # Errors
/// If the folder holds no HQ.
pub fn settings(folder: &Folder) -> anyhow::Result<Settings> {
    let text = fs::read_to_string(folder.at("hq.json")).with_context(|| {
        format!("{} holds no HQ; make one with forecourt-hq init", folder.root().display())
    })?;
    serde_json::from_str(&text).context("hq.json cannot be read")
}

fn authority(folder: &Folder) -> anyhow::Result<Authority> {
    let key = KeyPair::from_pem(&read(folder, "pki/issuing-ca.key")?)
        .context("pki/issuing-ca.key is no private key")?;
    Ok(Authority { cert_pem: read(folder, "pki/issuing-ca.pem")?, key })
}

fn read(folder: &Folder, name: &str) -> anyhow::Result<String> {
    fs::read_to_string(folder.at(name))
        .with_context(|| format!("{} cannot be read", folder.at(name).display()))
}
