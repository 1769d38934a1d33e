// SPDX-License-Identifier: Apache-2.0
//! The device key: P-256, made once, never leaves this server.

use crate::durable::file::{self, FileError, Mode};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use thiserror::Error;

const KEY_BYTES_MAX: u64 = 4096;

/// Why the device key is not to be had.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Reading or writing the key file.
    #[error("Cannot keep the device key")]
    File(#[from] FileError),
    /// The file is no P-256 PKCS#8 key.
    #[error("The device key file is damaged; a factory reset makes a new identity")]
    Damaged,
    /// The random source or the signer refused.
    #[error("The cryptographic library refused to {0}")]
    Crypto(&'static str),
    /// The certificate request could not be made.
    #[error("Cannot make a certificate request")]
    Request(#[source] rcgen::Error),
}

/// The device's private key.
pub struct DeviceKey {
    pkcs8: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKey({})", self.fingerprint())
    }
}

impl DeviceKey {
    /// Reads the key from `dir`, or makes one at the first boot.
    ///
    /// # Errors
    /// [`KeyError`]; a damaged key is never replaced silently.
    pub fn load_or_make(dir: &Path) -> Result<Self, KeyError> {
        let path = dir.join("device.p8");
        if let Some(pkcs8) = file::read(&path, KEY_BYTES_MAX)? {
            return Self::from_pkcs8(pkcs8);
        }
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError::Crypto("make a key"))?;
        file::replace(&path, made.as_ref(), Mode::Secret, true)?;
        Self::from_pkcs8(made.as_ref().to_vec())
    }

    fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8)
            .map_err(|_| KeyError::Damaged)?;
        Ok(Self { pkcs8, pair })
    }

    /// Public key: SPKI, DER.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        let der = self.pair.public_key().as_der();
        der.expect("a loaded P-256 key has an SPKI form").as_ref().to_vec()
    }

    /// SHA-256 of the SPKI in 8 groups of 8 hex digits, for reading aloud.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.spki_der());
        let groups: Vec<String> =
            hash.chunks(4).map(|four| four.iter().map(|b| format!("{b:02x}")).collect()).collect();
        groups.join(" ")
    }

    /// ECDSA over SHA-256, r and s as 64 bytes (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        Ok(signed.map_err(|_| KeyError::Crypto("sign"))?.as_ref().to_vec())
    }

    /// The key for TLS.
    #[must_use]
    pub fn tls_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.clone()))
    }

    /// A PKCS#10 request with an empty subject: HQ sets the name.
    ///
    /// # Errors
    /// [`KeyError::Request`].
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyError> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.clone());
        let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(KeyError::Request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_kept_secret() {
        let dir = tempfile::tempdir().unwrap();
        let first = DeviceKey::load_or_make(dir.path()).unwrap();
        let again = DeviceKey::load_or_make(dir.path()).unwrap();
        assert_eq!(first.spki_der(), again.spki_der());
        let mode = std::fs::metadata(dir.path().join("device.p8")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(first.fingerprint().split(' ').count(), 8);
    }

    #[test]
    fn a_damaged_key_is_reported_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.p8");
        std::fs::write(&path, b"damaged").unwrap();
        assert!(matches!(DeviceKey::load_or_make(dir.path()), Err(KeyError::Damaged)));
        assert_eq!(std::fs::read(&path).unwrap(), b"damaged");
    }

    #[test]
    fn the_request_carries_the_device_key_and_its_signature_holds() {
        use x509_parser::prelude::*;
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_make(dir.path()).unwrap();
        let der = key.certificate_request().unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
        csr.verify_signature().unwrap();
        assert_eq!(csr.certification_request_info.subject_pki.raw, key.spki_der());
    }
}
