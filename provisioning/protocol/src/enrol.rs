// SPDX-License-Identifier: Apache-2.0
//! Enrolment messages: RFC 8366 voucher artefact and RFC 8995 (BRSKI) message shapes.
//!
//! M1 and the voucher travel as JWS JSON general serialization (RFC 7515 section 7.2.1) with
//! `ES256`; these types are the payloads. HQ is registrar and MASA.

use crate::ids::{DeviceId, NodeSlot, SiteName};
use serde::{Deserialize, Serialize};

/// `POST` M1: voucher request.
pub const REQUEST_VOUCHER_PATH: &str = "/.well-known/brski/requestvoucher";
/// `POST` M4: how the enrolment went.
pub const ENROLL_STATUS_PATH: &str = "/.well-known/brski/enrollstatus";
/// `GET` M2: the CA certificates (RFC 7030 section 4.1).
pub const CACERTS_PATH: &str = "/.well-known/est/cacerts";
/// `POST` M3: first certificate (RFC 7030 section 4.2.1).
pub const SIMPLE_ENROLL_PATH: &str = "/.well-known/est/simpleenroll";
/// `POST` M5: renewal over mTLS (RFC 7030 section 4.2.2).
pub const SIMPLE_REENROLL_PATH: &str = "/.well-known/est/simplereenroll";
/// Media type of a voucher or voucher request as JWS.
pub const VOUCHER_JWS: &str = "application/voucher-jws+json";
/// Longest enrolment request, in bytes.
pub const ENROL_BYTES_MAX: usize = 16 * 1024;

/// Payload of M1, signed by the device key (`alg` ES256, `jwk` in the protected header absent: the
/// key is `device_spki`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VoucherRequest {
    /// 32 random bytes, base64: freshness without a clock.
    pub nonce: String,
    /// Board serial, or the SMBIOS UUID where the serial is a placeholder.
    pub serial_number: String,
    /// Device public key: P-256 SPKI, DER, base64.
    pub device_spki: String,
    /// What the hardware says of itself.
    pub hw: HardwareFacts,
    /// Agent version.
    pub agent: String,
    /// OS image version.
    pub image: String,
    /// Public first four characters of the claim code, if one is at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<String>,
    /// Server's real-time clock, seconds since 1970.
    pub rtc_s: u64,
}

/// Hardware facts for the operator's eyes; nothing is trusted because of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HardwareFacts {
    /// SMBIOS system vendor.
    pub vendor: String,
    /// SMBIOS product name.
    pub product: String,
    /// SMBIOS system UUID.
    pub smbios_uuid: String,
    /// MAC addresses of physical NICs, at most 16.
    pub macs: Vec<String>,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Logical CPUs.
    pub cpus: u32,
}

/// Payload of the voucher, signed by HQ's voucher key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Voucher {
    /// Echo of the request.
    pub serial_number: String,
    /// Echo of the request.
    pub nonce: String,
    /// Echo of the request: the key the voucher is bound to.
    pub device_spki: String,
    /// Seconds since 1970; with a fresh nonce it sets the device's clock.
    pub created_on_s: u64,
    /// Seconds since 1970; 20 minutes after `created_on_s`.
    pub expires_on_s: u64,
    /// `logged`: HQ keeps an audit row.
    pub assertion: String,
    /// HQ root CA, PEM.
    pub pinned_domain_cert: String,
    /// The identity HQ gave.
    pub device_id: DeviceId,
    /// The site the claim belongs to.
    pub site: SiteName,
    /// The place in the pair.
    pub slot: NodeSlot,
}

/// Body of M4 (RFC 8995 section 5.9.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EnrollStatus {
    /// 1.
    pub version: u32,
    /// Whether enrolment succeeded.
    pub status: bool,
    /// Reason for a person.
    #[serde(default)]
    pub reason: String,
}

/// JWS general JSON serialization with one signature (RFC 7515 section 7.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jws {
    /// base64url of the payload's JSON.
    pub payload: String,
    /// Exactly one.
    pub signatures: Vec<JwsSignature>,
}

/// One signature of a [`Jws`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwsSignature {
    /// base64url of `{"alg":"ES256",…}`.
    pub protected: String,
    /// base64url of r‖s, 64 bytes (RFC 7518 section 3.4).
    pub signature: String,
}
