// SPDX-License-Identifier: Apache-2.0
//! What a voucher must say before this server believes it.

use super::jws::{self, JwsError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provisioning_protocol::enrol::{Jws, Voucher, VoucherRequest};
use provisioning_protocol::owner::OwnerBundle;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::time::Duration;
use thiserror::Error;

/// A voucher that is good for longer than this is refused (RFC 8995 recommends 20 minutes).
const LIFE_S_MAX: u64 = 3600;

/// Why a voucher is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VoucherError {
    /// The signature.
    #[error("The voucher is not HQ's: {0}")]
    Signature(#[from] JwsError),
    /// The payload is no voucher.
    #[error("The voucher's content is damaged")]
    Content,
    /// It answers another request.
    #[error("The voucher is for another {0}; someone may be replaying an old one")]
    Echo(&'static str),
    /// Expired by HQ's own dates.
    #[error("The voucher had expired when it arrived; HQ will make a new one")]
    Expired,
    /// Valid for absurdly long.
    #[error("The voucher is valid for longer than an hour; HQ is misconfigured")]
    TooLong,
    /// It names another CA than the claim stick.
    #[error("The voucher pins another CA than the claim stick; use a stick of this HQ")]
    Pin,
}

/// Checks everything. `elapsed` is the time since the request was sent, by our monotonic clock:
/// the wall clock may be wrong, and it is this voucher that will set it.
///
/// # Errors
/// [`VoucherError`].
pub fn check(
    jws: &Jws,
    request: &VoucherRequest,
    owner: &OwnerBundle,
    elapsed: Duration,
) -> Result<Voucher, VoucherError> {
    let keys: Vec<Vec<u8>> =
        owner.voucher_keys_spki.iter().filter_map(|key| STANDARD.decode(key).ok()).collect();
    let payload = jws::verify(jws, &keys)?;
    let voucher: Voucher = serde_json::from_slice(&payload).map_err(|_| VoucherError::Content)?;
    let echoes = [
        (&voucher.nonce, &request.nonce, "request"),
        (&voucher.serial_number, &request.serial_number, "serial number"),
        (&voucher.device_spki, &request.device_spki, "device key"),
    ];
    if let Some((_, _, what)) = echoes.into_iter().find(|(got, sent, _)| got != sent) {
        return Err(VoucherError::Echo(what));
    }
    let life = voucher.expires_on_s.checked_sub(voucher.created_on_s);
    match life {
        None | Some(0) => return Err(VoucherError::Expired),
        Some(life) if life > LIFE_S_MAX => return Err(VoucherError::TooLong),
        Some(life) if elapsed.as_secs() >= life => return Err(VoucherError::Expired),
        Some(_) => {}
    }
    if voucher.created_on_s < owner.build_epoch_s {
        return Err(VoucherError::Expired);
    }
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let pinned = der(&voucher.pinned_domain_cert).ok_or(VoucherError::Content)?;
    let trusted: Vec<_> = CertificateDer::pem_slice_iter(owner.hq_root_ca_pem.as_bytes())
        .filter_map(Result::ok)
        .collect();
    if !trusted.contains(&pinned) {
        return Err(VoucherError::Pin);
    }
    Ok(voucher)
}
