// SPDX-License-Identifier: Apache-2.0
//! HQ's certificates: a root, one issuing CA below it, HQ's own TLS certificate, and the
//! servers' client certificates.
//!
//! ```text
//!   root CA (15 y, key may leave the machine) ── issuing CA (3 y) ─┬─ HQ TLS (serverAuth, 1 y)
//!                                                                  └─ servers (clientAuth, 90 d)
//! ```

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::local_witness::place_uri;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use std::time::Duration;
use thiserror::Error;

/// Seconds in a day.
pub const DAY_S: u64 = 24 * 3600;
/// Life of a server's certificate: long enough for a site that loses its WAN for weeks.
pub const DEVICE_CERT_DAYS: u64 = 90;
/// Life of the certificate of a witness on site: less than the issuing CA's.
const WITNESS_CERT_DAYS: u64 = 730;
/// Certificates start a day early, for clocks that are a little late.
const BACKDATE_S: u64 = DAY_S;

/// A certificate operation that failed.
#[derive(Debug, Error)]
pub enum PkiError {
    /// Making or signing a certificate.
    #[error("Making the {what} certificate failed")]
    Make {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The system's random source.
    #[error("The system gave no random bytes")]
    Random,
    /// Building the PKCS#7 answer.
    #[error("Building the certs-only PKCS#7 answer failed")]
    Pkcs7(#[source] der::Error),
}

/// Fills an array with random bytes.
///
/// # Errors
/// [`PkiError::Random`].
pub fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

/// A CA certificate with its key.
pub struct Authority {
    /// Certificate, PEM.
    pub cert_pem: String,
    /// Its key.
    pub key: KeyPair,
}

impl Authority {
    /// A new root, valid 15 years.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new_root(now_s: u64) -> Result<Self, PkiError> {
        let params = ca_params("Forecourt HQ root", now_s, 15 * 365, 1)?;
        let key = new_key("root CA")?;
        let cert = params.self_signed(&key).map_err(made("root CA"))?;
        Ok(Self { cert_pem: cert.pem(), key })
    }

    /// A new issuing CA below this one, valid three years.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new_issuing(&self, now_s: u64) -> Result<Self, PkiError> {
        let params = ca_params("Forecourt HQ issuing", now_s, 3 * 365, 0)?;
        let key = new_key("issuing CA")?;
        let cert = params.signed_by(&key, &self.issuer()?).map_err(made("issuing CA"))?;
        Ok(Self { cert_pem: cert.pem(), key })
    }

    /// HQ's own TLS certificate for these names and addresses, valid one year: PEM and its key.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn tls_certificate(
        &self,
        names: &[String],
        now_s: u64,
    ) -> Result<(String, KeyPair), PkiError> {
        let mut params = CertificateParams::new(names).map_err(made("TLS"))?;
        params.distinguished_name.push(DnType::CommonName, "Forecourt HQ");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf(&mut params, now_s, 365)?;
        let key = new_key("TLS")?;
        let cert = params.signed_by(&key, &self.issuer()?).map_err(made("TLS"))?;
        Ok((cert.pem(), key))
    }

    /// The certificate of a witness on site for its own key, valid two years: PEM.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn witness_certificate(
        &self,
        names: &[String],
        spki: &[u8],
        now_s: u64,
    ) -> Result<String, PkiError> {
        let make = made("witness");
        let mut params = CertificateParams::new(names).map_err(&make)?;
        params.distinguished_name.push(DnType::CommonName, "Forecourt witness");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf(&mut params, now_s, WITNESS_CERT_DAYS)?;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(&make)?;
        Ok(params.signed_by(&key, &self.issuer()?).map_err(&make)?.pem())
    }

    /// A server's client certificate for its own key. Nothing of the request but the key is used.
    /// It names the server's place, by which a witness on site knows it.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn device_certificate(
        &self,
        device_id: &str,
        place: (&SiteName, NodeSlot),
        spki: &[u8],
        now_s: u64,
    ) -> Result<Vec<u8>, PkiError> {
        let make = made("server");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, device_id);
        let uri = format!("urn:uuid:{device_id}").try_into().map_err(&make)?;
        let place = place_uri(place.0, place.1).try_into().map_err(&make)?;
        params.subject_alt_names = vec![SanType::URI(uri), SanType::URI(place)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        leaf(&mut params, now_s, DEVICE_CERT_DAYS)?;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(&make)?;
        let cert = params.signed_by(&key, &self.issuer()?).map_err(&make)?;
        Ok(cert.der().to_vec())
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, PkiError> {
        Issuer::from_ca_cert_pem(&self.cert_pem, &self.key).map_err(made("CA"))
    }
}

/// When a device certificate made at `now_s` ends.
#[must_use]
pub fn device_not_after_s(now_s: u64) -> u64 {
    now_s + DEVICE_CERT_DAYS * DAY_S
}

/// A certs-only PKCS#7 (RFC 5652 SignedData without signatures), DER.
///
/// # Errors
/// [`PkiError::Pkcs7`] if a certificate cannot be read.
pub fn certs_only(certs_der: &[Vec<u8>]) -> Result<Vec<u8>, PkiError> {
    use der::{Decode, Encode};
    let certs = certs_der
        .iter()
        .map(|der| x509_cert::Certificate::from_der(der))
        .collect::<Result<Vec<_>, _>>()
        .map_err(PkiError::Pkcs7)?;
    cms::content_info::ContentInfo::try_from(certs)
        .and_then(|info| info.to_der())
        .map_err(PkiError::Pkcs7)
}

fn ca_params(
    name: &str,
    now_s: u64,
    days: u64,
    path_len: u8,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Forecourt");
    // A name of its own for each CA: a client that meets another HQ says "unknown issuer".
    let tag = data_encoding::HEXLOWER.encode(&random::<4>()?);
    params.distinguished_name.push(DnType::CommonName, format!("{name} {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now_s, days)?;
    Ok(params)
}

fn leaf(params: &mut CertificateParams, now_s: u64, days: u64) -> Result<(), PkiError> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    validity(params, now_s, days)
}

fn validity(params: &mut CertificateParams, now_s: u64, days: u64) -> Result<(), PkiError> {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(BACKDATE_S));
    params.not_after = epoch + Duration::from_secs(now_s + days * DAY_S);
    let mut serial = random::<16>()?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

/// A new key for vouchers.
///
/// # Errors
/// [`PkiError`].
pub fn new_voucher_key() -> Result<KeyPair, PkiError> {
    new_key("voucher")
}

fn new_key(what: &'static str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(made(what))
}

fn made(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Make { what, source }
}
