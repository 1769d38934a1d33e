// SPDX-License-Identifier: Apache-2.0
//! A witness on site: what its box, the servers and the operator are told of it.
//!
//! The box makes its keys itself and is let in by a claim code, like a server.

use crate::ids::{NodeSlot, SiteName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// `PUT /v1/sites/{site}/witness-box`: where the box listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWitnessBox {
    /// A fixed address on the site's LAN.
    pub address: SocketAddr,
}

/// `POST`: a box asks to be enrolled, with its claim code.
pub const BOX_ENROL_PATH: &str = "/v1/witness-box/enrol";

/// Answer to the `PUT`: what the operator carries to the box. HQ keeps a hash of the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessBoxClaim {
    /// The site.
    pub site: SiteName,
    /// Where the box is to listen.
    pub address: SocketAddr,
    /// Where HQ is.
    pub hq_url: String,
    /// SHA-256 of HQ's issuing CA, hex: how the box knows HQ.
    pub ca_sha256: String,
    /// The claim code, in groups.
    pub code: String,
    /// When the code ends, seconds since 1970.
    pub expires_s: u64,
}

/// What the servers are told: part of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessBox {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it signs its replies with: P-256, SPKI, base64 (DER).
    #[serde(default)]
    pub key_spki: String,
}

/// Payload of a box's request, a JWS signed by the key it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BoxRequest {
    /// The claim code.
    pub code: String,
    /// PKCS#10 of the key that ends TLS, base64.
    pub csr: String,
    /// The key that signs replies: P-256, SPKI, base64 (DER).
    pub signing_spki: String,
}

/// What HQ gives a box; nothing of it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxAdmission {
    /// The site.
    pub site: SiteName,
    /// Where to listen.
    pub address: SocketAddr,
    /// The certificate for TLS and the issuing CA, PEM.
    pub chain_pem: String,
    /// CA of the servers' certificates, PEM.
    pub client_ca_pem: String,
}

/// The name in the box's certificate, which no other site's box has.
#[must_use]
pub fn box_name(site: &SiteName) -> String {
    format!("{site}.witness.forecourt.internal")
}

/// The place of a server, as a URI in its certificate.
#[must_use]
pub fn place_uri(site: &SiteName, slot: NodeSlot) -> String {
    format!("urn:forecourt:server:{site}:{slot}")
}
