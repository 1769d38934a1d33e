// SPDX-License-Identifier: Apache-2.0
//! TLS to HQ: only the owner's root CA is trusted, whatever the operating system believes.
//!
//! While the clock is not trusted (first boot with a dead RTC), validity dates are ignored for
//! the chain to that root; names, usages and signatures never are. The issuer of a certificate
//! that is refused is remembered, so that the console can name the box that intercepts TLS.

use crate::identity::{clock, hardware};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error as ThisError;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Most certificates a root bundle may hold.
const ROOTS_MAX: usize = 8;

/// Why TLS cannot be set up.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// The PEM holds no usable certificate.
    #[error("HQ's root CA is no valid PEM certificate")]
    Roots,
    /// The verifier or the client certificate was refused.
    #[error("Cannot set up TLS")]
    Setup(#[source] Error),
}

/// A clock that has moved this much against the time since boot was stepped, seconds.
const STEP_S_MIN: u64 = 300;

/// What outlives one connection: whether the clock counts, and whom we last refused.
#[derive(Debug, Default)]
pub struct TlsMemory {
    clock_trusted: AtomicBool,
    /// The time when it was last found right, seconds since 1970 and since boot.
    right_at: Mutex<Option<(u64, u64)>>,
    refused_issuer: Mutex<Option<String>>,
}

impl TlsMemory {
    /// Says whether validity dates are to be judged from now on.
    pub fn set_clock_trusted(&self, trusted: bool) {
        self.clock_trusted.store(trusted, Ordering::Relaxed);
        let now = (clock::now_s(), hardware::boot_ms() / 1000);
        *self.right_at.lock().unwrap_or_else(PoisonError::into_inner) = trusted.then_some(now);
    }

    /// The time to judge validity dates by: the clock's, unless it was stepped since it was found
    /// right. Then it is what the clock would show; a running server must not lose its HQ by that.
    fn judge_by(&self, clock_s: u64, boot_s: u64) -> u64 {
        let right_at = *self.right_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((right_s, since_boot_s)) = right_at else { return clock_s };
        let expected = right_s.saturating_add(boot_s.saturating_sub(since_boot_s));
        if clock_s.abs_diff(expected) < STEP_S_MIN { clock_s } else { expected }
    }

    /// Whether the clock is trusted.
    #[must_use]
    pub fn clock_trusted(&self) -> bool {
        self.clock_trusted.load(Ordering::Relaxed)
    }

    /// Issuer of the certificate that was last refused as unknown; taken once.
    pub fn take_refused_issuer(&self) -> Option<String> {
        self.refused_issuer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self, issuer: String) {
        *self.refused_issuer.lock().unwrap_or_else(PoisonError::into_inner) = Some(issuer);
    }
}

/// Reads the root certificates.
///
/// # Errors
/// [`TlsError::Roots`].
pub fn root_store(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem.as_bytes()).take(ROOTS_MAX) {
        let cert = cert.map_err(|_| TlsError::Roots)?;
        store.add(cert).map_err(|_| TlsError::Roots)?;
    }
    if store.is_empty() { Err(TlsError::Roots) } else { Ok(store) }
}

/// A client configuration that trusts `root_pem` only; with a certificate if there is one.
///
/// # Errors
/// [`TlsError`].
pub fn client_config(
    root_pem: &str,
    memory: Arc<TlsMemory>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<ClientConfig, TlsError> {
    let roots = Arc::new(root_store(root_pem)?);
    let inner = WebPkiServerVerifier::builder(roots)
        .build()
        .map_err(|err| TlsError::Setup(Error::General(err.to_string())))?;
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { inner, memory }));
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Setup)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Pinned {
    inner: Arc<WebPkiServerVerifier>,
    memory: Arc<TlsMemory>,
}

impl Pinned {
    /// A moment at which the leaf is valid: used only while our own clock is not trusted.
    fn moment_of(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
        let (_, cert) = X509Certificate::from_der(leaf).ok()?;
        let validity = cert.validity();
        let from = u64::try_from(validity.not_before.timestamp()).ok()?;
        let to = u64::try_from(validity.not_after.timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(from + to.checked_sub(from)? / 2)))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now_s = self.memory.judge_by(now.as_secs(), hardware::boot_ms() / 1000);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
        let mut result = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now);
        if is_about_dates(&result)
            && !self.memory.clock_trusted()
            && let Some(moment) = Self::moment_of(leaf)
        {
            result = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, moment);
        }
        // Another HQ's CA may well bear the same name: then it is the signature that does not fit.
        if matches!(
            result,
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            ))
        ) {
            let issuer = X509Certificate::from_der(leaf).map(|(_, cert)| cert.issuer().to_string());
            let issuer: String = issuer.unwrap_or_default().chars().take(120).collect();
            self.memory.refuse(issuer);
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_about_dates<T>(result: &Result<T, Error>) -> bool {
    matches!(
        result,
        Err(Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEARS_10: u64 = 10 * 365 * 24 * 3600;

    #[test]
    fn a_clock_stepped_by_ten_years_is_not_what_certificates_are_judged_by() {
        let memory = TlsMemory::default();
        assert_eq!(memory.judge_by(5, 1), 5, "nothing is known yet");
        memory.set_clock_trusted(true);
        let (right_s, boot_s) = memory.right_at.lock().unwrap().unwrap();
        for stepped in [right_s + YEARS_10, right_s - YEARS_10] {
            assert_eq!(memory.judge_by(stepped, boot_s + 60), right_s + 60);
        }
        // A clock that is drawn right slowly is the clock.
        assert_eq!(memory.judge_by(right_s + 3_600 + 9, boot_s + 3_600), right_s + 3_600 + 9);
    }
}
