// SPDX-License-Identifier: Apache-2.0
//! JWS with ES256 in general JSON serialization (RFC 7515), one signature, nothing optional.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use provisioning_protocol::enrol::{Jws, JwsSignature};
use serde::Deserialize;
use thiserror::Error;

/// DER header of a P-256 SubjectPublicKeyInfo; the 65-byte point follows.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a JWS was not taken.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JwsError {
    /// No base64url or no JSON where it belongs.
    #[error("the JWS is malformed: {0}")]
    Malformed(&'static str),
    /// Another algorithm, or header fields HQ does not act on.
    #[error("the JWS header must be alg ES256 without critical extensions")]
    Algorithm,
    /// The key is no uncompressed P-256 SPKI.
    #[error("the key is no P-256 SubjectPublicKeyInfo")]
    Key,
    /// The signature does not fit.
    #[error("the signature does not fit the key")]
    Signature,
    /// The signer itself failed.
    #[error("signing failed")]
    Sign,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<Vec<String>>,
}

/// The payload's bytes, not verified yet: only to find the key that must have signed it.
///
/// # Errors
/// [`JwsError::Malformed`].
pub fn unverified_payload(jws: &Jws) -> Result<Vec<u8>, JwsError> {
    decode(&jws.payload, "payload")
}

/// Checks the one signature with this key.
///
/// # Errors
/// [`JwsError`] says what does not fit.
pub fn verify(jws: &Jws, spki: &[u8]) -> Result<(), JwsError> {
    let [signature] = jws.signatures.as_slice() else {
        return Err(JwsError::Malformed("exactly one signature is expected"));
    };
    let header = decode(&signature.protected, "protected header")?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| JwsError::Malformed("protected header"))?;
    if header.alg != "ES256" || header.crit.is_some() {
        return Err(JwsError::Algorithm);
    }
    let raw = decode(&signature.signature, "signature")?;
    let signed = format!("{}.{}", signature.protected, jws.payload);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, p256_point(spki)?)
        .verify(signed.as_bytes(), &raw)
        .map_err(|_| JwsError::Signature)
}

/// Signs a payload.
///
/// # Errors
/// [`JwsError::Sign`] if the random source fails.
pub fn sign(payload: &[u8], key: &EcdsaKeyPair) -> Result<Jws, JwsError> {
    let protected = BASE64_URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256"}"#);
    let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
    let input = format!("{protected}.{payload}");
    let raw = key.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| JwsError::Sign)?;
    let signature = BASE64_URL_SAFE_NO_PAD.encode(raw);
    Ok(Jws { payload, signatures: vec![JwsSignature { protected, signature }] })
}

/// Reads a signing key from PKCS#8 DER.
///
/// # Errors
/// [`JwsError::Key`].
pub fn signing_key(pkcs8: &[u8]) -> Result<EcdsaKeyPair, JwsError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| JwsError::Key)
}

/// The uncompressed point of a P-256 SPKI.
///
/// # Errors
/// [`JwsError::Key`] for anything else.
pub fn p256_point(spki: &[u8]) -> Result<&[u8], JwsError> {
    match spki.strip_prefix(&P256_SPKI_PREFIX) {
        Some(point) if point.len() == 65 && point[0] == 4 => Ok(point),
        _ => Err(JwsError::Key),
    }
}

fn decode(text: &str, what: &'static str) -> Result<Vec<u8>, JwsError> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::Malformed(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PublicKeyData};

    fn signed(payload: &[u8]) -> (Jws, Vec<u8>) {
        let key = KeyPair::generate().expect("key");
        let jws = sign(payload, &signing_key(key.serialized_der()).expect("p256")).expect("signed");
        (jws, key.subject_public_key_info())
    }

    #[test]
    fn a_signed_payload_verifies_and_a_changed_one_does_not() {
        let (mut jws, spki) = signed(b"{\"a\":1}");
        assert_eq!(verify(&jws, &spki), Ok(()));
        jws.payload = BASE64_URL_SAFE_NO_PAD.encode(b"{\"a\":2}");
        assert_eq!(verify(&jws, &spki), Err(JwsError::Signature));
    }

    #[test]
    fn another_key_or_a_foreign_curve_is_refused() {
        let (jws, _) = signed(b"x");
        let other = KeyPair::generate().expect("key").subject_public_key_info();
        assert_eq!(verify(&jws, &other), Err(JwsError::Signature));
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
        assert_eq!(verify(&jws, &p384.subject_public_key_info()), Err(JwsError::Key));
    }

    #[test]
    fn alg_none_and_critical_extensions_are_refused() {
        let (jws, spki) = signed(b"x");
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"ES256","crit":["b"]}"#]
        {
            let mut bad = jws.clone();
            bad.signatures[0].protected = BASE64_URL_SAFE_NO_PAD.encode(header);
            assert_eq!(verify(&bad, &spki), Err(JwsError::Algorithm), "{header}");
        }
        let mut two = jws;
        two.signatures.push(two.signatures[0].clone());
        assert!(matches!(verify(&two, &spki), Err(JwsError::Malformed(_))));
    }
}
