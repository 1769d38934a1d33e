// SPDX-License-Identifier: Apache-2.0
//! `forecourt-hq init`: makes all of HQ's own keys and certificates, once.

use crate::clock::Clock;
use crate::files::{Folder, make_private_dir, write_new_public, write_new_secret};
use crate::pki::{self, Authority, PkiError};
use provisioning_catalogue::keys::{KeyError, OnlineKeys};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// `hq.json`: what was said at init and is needed later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Form of this file, 1.
    pub v: u32,
    /// Names and addresses in HQ's TLS certificate.
    pub addresses: Vec<String>,
    /// Base URLs that claim sticks name.
    pub urls: Vec<String>,
    /// Seconds since 1970 at init: no server believes an earlier clock.
    pub made_s: u64,
}

/// Why init failed.
#[derive(Debug, Error)]
pub enum InitError {
    /// There is an HQ in the folder.
    #[error("{0} holds an HQ already; its keys are never overwritten")]
    Exists(PathBuf),
    /// No address was given.
    #[error("give at least one --address: the names and IP addresses servers reach this HQ by")]
    NoAddress,
    /// A file could not be written.
    #[error("Writing {path} failed")]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("Making HQ's certificates failed")]
    Pki(#[source] PkiError),
    /// The catalogue's online keys could not be made.
    #[error("Making the catalogue's online keys failed")]
    Keys(#[source] KeyError),
}

/// Makes an HQ in the folder.
///
/// # Errors
/// [`InitError`].
pub fn init(folder: &Folder, addresses: &[String], urls: &[String]) -> Result<(), InitError> {
    if addresses.is_empty() {
        return Err(InitError::NoAddress);
    }
    if folder.at("hq.json").exists() || folder.token().exists() {
        return Err(InitError::Exists(folder.root().to_owned()));
    }
    for dir in ["", "pki", "offline", "tuf-online"] {
        let path = folder.at(dir);
        make_private_dir(&path).map_err(|source| InitError::Write { path, source })?;
    }
    let now_s = Clock::default().now_s();
    make_certificates(folder, addresses, now_s)?;
    let online = OnlineKeys::create(&folder.at("tuf-online")).map_err(InitError::Keys)?;
    let public = online.public().map_err(InitError::Keys)?;
    public_file(folder, "tuf-online.json", &to_json(&public))?;
    let token = pki::random::<32>().map_err(InitError::Pki)?;
    let token = format!("{}\n", data_encoding::BASE64URL_NOPAD.encode(&token));
    secret_file(folder, "operator.token", token.as_bytes())?;
    let settings =
        Settings { v: 1, addresses: addresses.to_vec(), urls: urls.to_vec(), made_s: now_s };
    // Last: its presence says that everything else is there.
    public_file(folder, "hq.json", &to_json(&settings))
}

fn make_certificates(folder: &Folder, addresses: &[String], now_s: u64) -> Result<(), InitError> {
    let root = Authority::new_root(now_s).map_err(InitError::Pki)?;
    let issuing = root.new_issuing(now_s).map_err(InitError::Pki)?;
    let (tls_pem, tls_key) = issuing.tls_certificate(addresses, now_s).map_err(InitError::Pki)?;
    let voucher = pki::new_voucher_key().map_err(InitError::Pki)?;
    public_file(folder, "pki/root-ca.pem", root.cert_pem.as_bytes())?;
    public_file(folder, "pki/issuing-ca.pem", issuing.cert_pem.as_bytes())?;
    public_file(folder, "pki/tls.pem", (tls_pem + &issuing.cert_pem).as_bytes())?;
    secret_file(folder, "offline/root-ca.key", root.key.serialize_pem().as_bytes())?;
    secret_file(folder, "pki/issuing-ca.key", issuing.key.serialize_pem().as_bytes())?;
    secret_file(folder, "pki/tls.key", tls_key.serialize_pem().as_bytes())?;
    secret_file(folder, "pki/voucher.key", voucher.serialize_pem().as_bytes())
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain structs become JSON");
    bytes.push(b'\n');
    bytes
}

fn public_file(folder: &Folder, name: &str, bytes: &[u8]) -> Result<(), InitError> {
    let path = folder.at(name);
    write_new_public(&path, bytes).map_err(|source| InitError::Write { path, source })
}

fn secret_file(folder: &Folder, name: &str, bytes: &[u8]) -> Result<(), InitError> {
    let path = folder.at(name);
    write_new_secret(&path, bytes).map_err(|source| InitError::Write { path, source })
}

/// What to do next, for the person who ran init.
#[must_use]
pub fn next_steps(folder: &Folder) -> String {
    let dir = folder.root().display();
    format!(
        "HQ is made in {dir}.\n\
         - Move {dir}/offline/root-ca.key to a safe place away from this machine.\n\
         - Operators need {dir}/operator.token and {dir}/pki/root-ca.pem.\n\
         - Make the catalogue's offline keys and their root.json on another machine:\n    \
           forecourt keys init --dir KEYS --online {dir}/tuf-online.json\n\
         - Start HQ:  forecourt-hq serve --dir {dir} --listen 0.0.0.0:443\n\
         - Let HQ trust the root:  forecourt keys trust --dir KEYS\n"
    )
}
