// SPDX-License-Identifier: Apache-2.0
//! The owner bundle: what a server must know to trust its HQ, delivered on the claim stick.

use serde::{Deserialize, Serialize};

/// `owner.json`: HQ's addresses and the roots of trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnerBundle {
    /// Format version, 1.
    pub v: u32,
    /// HQ base URLs, tried in order, such as `https://hq.example:443`.
    pub hq_urls: Vec<String>,
    /// HQ's root CA, PEM. The only CA the agent ever trusts.
    pub hq_root_ca_pem: String,
    /// Public keys that may sign vouchers: P-256, SPKI, base64 (DER).
    pub voucher_keys_spki: Vec<String>,
    /// The trusted TUF `root.json`, as text.
    pub tuf_root_json: String,
    /// Seconds since 1970 before which no clock is believed.
    pub build_epoch_s: u64,
}
