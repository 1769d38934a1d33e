// SPDX-License-Identifier: Apache-2.0
//! The box's two keys, made here and never given out: one ends TLS, the other signs replies. So
//! whatever is put before the box to end TLS in its stead needs no key that can grant anything.

use crate::file;
use anyhow::{Context as _, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use provisioning_protocol::enrol::{Jws, JwsSignature};
use provisioning_protocol::local_witness::BoxRequest;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use std::path::Path;

const KEYS: &str = "keys.json";

/// As stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u32,
    tls_pem: String,
    signing_pem: String,
}

/// Both keys.
pub struct Keys {
    tls: KeyPair,
    signing: KeyPair,
}

impl Keys {
    /// Reads the keys of a folder; none if there are none yet.
    ///
    /// # Errors
    /// If they are damaged, or may be read by others.
    pub fn load(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(stored) = file::load::<Stored>(&folder.join(KEYS))? else { return Ok(None) };
        if stored.v != 1 {
            bail!("{KEYS} is of another version than this program");
        }
        let key = |pem: &str| {
            let key = KeyPair::from_pem(pem).with_context(|| format!("{KEYS} is damaged"))?;
            if !key.is_compatible(&PKCS_ECDSA_P256_SHA256) {
                bail!("{KEYS} holds a key of another kind");
            }
            Ok(key)
        };
        Ok(Some(Self { tls: key(&stored.tls_pem)?, signing: key(&stored.signing_pem)? }))
    }

    /// Reads the keys, or makes and keeps them.
    ///
    /// # Errors
    /// If they are damaged or cannot be kept.
    pub fn load_or_make(folder: &Path) -> anyhow::Result<Self> {
        if let Some(keys) = Self::load(folder)? {
            return Ok(keys);
        }
        let make = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key");
        let keys = Self { tls: make()?, signing: make()? };
        let (tls_pem, signing_pem) = (keys.tls.serialize_pem(), keys.signing.serialize_pem());
        file::store(&folder.join(KEYS), &Stored { v: 1, tls_pem, signing_pem })?;
        Ok(keys)
    }

    /// The key that ends TLS, PKCS#8.
    #[must_use]
    pub fn tls_der(&self) -> Vec<u8> {
        self.tls.serialize_der()
    }

    /// The key that signs replies.
    ///
    /// # Errors
    /// If the library refuses it.
    pub fn signing(&self) -> anyhow::Result<EcdsaKeyPair> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.signing.serialized_der())
            .context("the signing key is refused")
    }

    /// What the servers know the box by: P-256, SPKI, DER.
    #[must_use]
    pub fn signing_spki(&self) -> Vec<u8> {
        self.signing.subject_public_key_info()
    }

    /// A request to be enrolled, signed by the key that will sign replies.
    ///
    /// # Errors
    /// If signing fails.
    pub fn request(&self, code: &str) -> anyhow::Result<Jws> {
        let csr = CertificateParams::default()
            .serialize_request(&self.tls)
            .context("cannot make a certificate request")?;
        let request = BoxRequest {
            code: code.to_owned(),
            csr: BASE64.encode(csr.der()),
            signing_spki: BASE64.encode(&self.signing_spki()),
        };
        let request = serde_json::to_vec(&request).expect("plain data becomes JSON");
        let payload = BASE64URL_NOPAD.encode(&request);
        let protected = BASE64URL_NOPAD.encode(br#"{"alg":"ES256"}"#);
        let signed = format!("{protected}.{payload}");
        let signature = self
            .signing()?
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| anyhow::anyhow!("the system gave no random bytes"))?;
        let signature = BASE64URL_NOPAD.encode(signature.as_ref());
        Ok(Jws { payload, signatures: vec![JwsSignature { protected, signature }] })
    }
}
