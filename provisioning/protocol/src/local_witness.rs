// SPDX-License-Identifier: Apache-2.0
//! A witness on site: what its box, the servers and the operator are told of it.

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

/// What the servers are told: part of the desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessBox {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Answer to the `PUT`: all the box needs, its key among it. HQ keeps no copy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessBundle {
    /// The site.
    pub site: SiteName,
    /// Where to listen.
    pub address: SocketAddr,
    /// Its certificate and the issuing CA, PEM.
    pub chain_pem: String,
    /// Its key, PEM.
    pub key_pem: String,
    /// CA of the servers' certificates, PEM.
    pub client_ca_pem: String,
}

impl std::fmt::Debug for WitnessBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WitnessBundle({} at {}, key …)", self.site, self.address)
    }
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
