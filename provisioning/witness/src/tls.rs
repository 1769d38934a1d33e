// SPDX-License-Identifier: Apache-2.0
//! Who may speak: servers of this site, by what HQ wrote into their certificates.
//!
//! Dates are not judged. A site may be cut off from HQ for longer than its servers' certificates
//! last, and a small box may wake up in 1970: no clock is to stand between a frozen VM and its
//! grant. Issuer, usage and signatures count as ever.

use crate::identity::Identity;
use anyhow::Context as _;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::local_witness::place_uri;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// The TLS side of a box.
///
/// # Errors
/// If its certificates or its key are of no use.
pub fn config(identity: &Identity) -> anyhow::Result<ServerConfig> {
    let given = &identity.admission;
    let mut anchors = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(given.client_ca_pem.as_bytes()) {
        anchors.add(cert.context("client CA")?).context("client CA")?;
    }
    let inner = WebPkiClientVerifier::builder(Arc::new(anchors)).build().context("client CA")?;
    let chain = CertificateDer::pem_slice_iter(given.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("certificate")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.keys.tls_der()));
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(Arc::new(Timeless(inner)))
        .with_single_cert(chain, key)
        .context("certificate")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The slot of a verified certificate's holder, if it is a server of this site.
#[must_use]
pub fn slot_of(site: &SiteName, der: &CertificateDer<'_>) -> Option<NodeSlot> {
    let (_, cert) = parse_x509_certificate(der).ok()?;
    let names = cert.subject_alternative_name().ok()??;
    NodeSlot::BOTH.into_iter().find(|slot| {
        let wanted = place_uri(site, *slot);
        let named =
            |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if *uri == wanted);
        names.value.general_names.iter().any(named)
    })
}

#[derive(Debug)]
struct Timeless(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Timeless {
    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let moment =
            within(cert).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        self.0.verify_client_cert(cert, between, moment)
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
}

/// A moment at which the certificate is valid.
fn within(der: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, cert) = parse_x509_certificate(der).ok()?;
    let validity = cert.validity();
    let from = u64::try_from(validity.not_before.timestamp()).ok()?;
    let to = u64::try_from(validity.not_after.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(from + to.checked_sub(from)? / 2)))
}
