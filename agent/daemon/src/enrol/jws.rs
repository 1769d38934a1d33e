// SPDX-License-Identifier: Apache-2.0
//! JWS JSON general serialization with exactly one ES256 signature, no more.

use crate::identity::key::{DeviceKey, KeyError};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use provisioning_protocol::enrol::{Jws, JwsSignature};
use serde::Deserialize;
use thiserror::Error;

/// Why a JWS is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JwsError {
    /// Not one signature.
    #[error("it carries {0} signatures instead of one")]
    Count(usize),
    /// base64url or JSON is broken.
    #[error("its {0} is damaged")]
    Encoding(&'static str),
    /// Another algorithm, or critical extensions.
    #[error("it is signed in a way this agent does not know")]
    Algorithm,
    /// No known key fits.
    #[error("its signature is by none of the owner's voucher keys")]
    Signature,
}

#[derive(Deserialize)]
struct Protected {
    alg: String,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// Signs a payload with the device key.
///
/// # Errors
/// [`KeyError`].
pub fn sign(key: &DeviceKey, payload: &[u8]) -> Result<Jws, KeyError> {
    let payload = URL_SAFE_NO_PAD.encode(payload);
    let protected = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256"}"#);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(format!("{protected}.{payload}").as_bytes())?);
    Ok(Jws { payload, signatures: vec![JwsSignature { protected, signature }] })
}

/// Checks the signature against each of `keys` (SPKI, DER) and gives the payload.
///
/// # Errors
/// [`JwsError`].
pub fn verify(jws: &Jws, keys: &[Vec<u8>]) -> Result<Vec<u8>, JwsError> {
    let [one] = jws.signatures.as_slice() else {
        return Err(JwsError::Count(jws.signatures.len()));
    };
    let decode =
        |text: &str, what| URL_SAFE_NO_PAD.decode(text).map_err(|_| JwsError::Encoding(what));
    let head: Protected = serde_json::from_slice(&decode(&one.protected, "header")?)
        .map_err(|_| JwsError::Encoding("header"))?;
    if head.alg != "ES256" || head.crit.is_some() {
        return Err(JwsError::Algorithm);
    }
    let signature = decode(&one.signature, "signature")?;
    let message = format!("{}.{}", one.protected, jws.payload);
    let fits = |key: &Vec<u8>| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify(message.as_bytes(), &signature)
            .is_ok()
    };
    if !keys.iter().any(fits) {
        return Err(JwsError::Signature);
    }
    decode(&jws.payload, "payload")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_key_and_an_untouched_payload_pass() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = DeviceKey::load_or_make(dir.path()).unwrap();
        let stranger = DeviceKey::load_or_make(other.path()).unwrap();
        let jws = sign(&key, b"{}").unwrap();
        let (ours, theirs) = (vec![key.spki_der()], vec![stranger.spki_der()]);
        assert_eq!(verify(&jws, &ours), Ok(b"{}".to_vec()));
        assert_eq!(verify(&jws, &theirs), Err(JwsError::Signature));
        let touched = Jws { payload: URL_SAFE_NO_PAD.encode(b"{} "), ..jws.clone() };
        assert_eq!(verify(&touched, &ours), Err(JwsError::Signature));
        let twice = Jws {
            signatures: vec![jws.signatures[0].clone(), jws.signatures[0].clone()],
            ..jws.clone()
        };
        assert_eq!(verify(&twice, &ours), Err(JwsError::Count(2)));
    }

    #[test]
    fn other_algorithms_and_critical_extensions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = DeviceKey::load_or_make(dir.path()).unwrap();
        for head in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"ES256","crit":["b64"]}"#]
        {
            let mut jws = sign(&key, b"{}").unwrap();
            jws.signatures[0].protected = URL_SAFE_NO_PAD.encode(head);
            assert_eq!(verify(&jws, &[key.spki_der()]), Err(JwsError::Algorithm), "{head}");
        }
    }
}
