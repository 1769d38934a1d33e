// SPDX-License-Identifier: Apache-2.0
//! Client certificates: from our issuing CA, and in date or not long out of it.
//!
//! A site that was cut off for months comes back with a certificate that has ended. Its handshake
//! succeeds, so that the application can tell it what to do: an ended certificate opens nothing
//! but its own renewal (see [`crate::http`]).

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// How long an ended certificate may still ask for the next one.
const LATE_S_MAX: u64 = 365 * 24 * 3600;

/// The usual verifier, with patience for ended certificates.
#[derive(Debug)]
pub struct Patient(pub Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Patient {
    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let refused = match self.0.verify_client_cert(cert, between, now) {
            Err(error) if ended(&error) => error,
            other => return other,
        };
        // The same checks as of its last second: signature, usage and chain count as ever.
        match not_after_s(cert) {
            Some(end) if now.as_secs().saturating_sub(end) <= LATE_S_MAX => {
                let then = UnixTime::since_unix_epoch(Duration::from_secs(end));
                self.0.verify_client_cert(cert, between, then)
            }
            _ => Err(refused),
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }
}

fn ended(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        )
    )
}

/// When a certificate ends, seconds since 1970.
#[must_use]
pub fn not_after_s(cert: &CertificateDer<'_>) -> Option<u64> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    u64::try_from(cert.validity().not_after.timestamp()).ok()
}
