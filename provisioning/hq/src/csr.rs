// SPDX-License-Identifier: Apache-2.0
//! Certificate requests: only the key is used, and what asks for more is refused.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Why a request was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CsrError {
    /// No PKCS#10 at all.
    #[error("the body is no base64 PKCS#10 request")]
    Malformed,
    /// Not signed by the key it names.
    #[error("the request is not signed by its own key")]
    Signature,
    /// Asks to become a CA.
    #[error("the request asks for a CA certificate")]
    Authority,
    /// Asks for names that HQ would not give.
    #[error("the request asks for a name that is not the device's own")]
    ForeignName,
}

/// Checks a request and returns the SPKI it is for.
///
/// # Errors
/// [`CsrError`].
pub fn check(body: &[u8], device_id: Option<&str>) -> Result<Vec<u8>, CsrError> {
    let der = decode(body)?;
    let (rest, csr) = X509CertificationRequest::from_der(&der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    for extension in csr.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::BasicConstraints(limits) if limits.ca => {
                return Err(CsrError::Authority);
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let own = device_id.map(|id| format!("urn:uuid:{id}"));
                let is_own = |name: &GeneralName<'_>| match name {
                    GeneralName::URI(uri) => Some(*uri) == own.as_deref(),
                    _ => false,
                };
                if !names.general_names.iter().all(is_own) {
                    return Err(CsrError::ForeignName);
                }
            }
            _ => {}
        }
    }
    Ok(csr.certification_request_info.subject_pki.raw.to_vec())
}

/// Base64 with or without line breaks and PEM lines, or plain DER.
fn decode(body: &[u8]) -> Result<Vec<u8>, CsrError> {
    if body.first() == Some(&0x30) {
        return Ok(body.to_vec());
    }
    let text = std::str::from_utf8(body).map_err(|_| CsrError::Malformed)?;
    let text: String =
        text.lines().filter(|line| !line.starts_with("-----")).flat_map(str::chars).collect();
    let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    BASE64_STANDARD.decode(text).map_err(|_| CsrError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData, SanType};

    fn request(change: impl FnOnce(&mut CertificateParams)) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        change(&mut params);
        (params.serialize_request(&key).expect("csr").der().to_vec(), key)
    }

    #[test]
    fn a_plain_request_gives_its_key_in_each_wrapping() {
        let (der, key) = request(|_| {});
        let spki = key.subject_public_key_info();
        let base64 = BASE64_STANDARD.encode(&der);
        let broken =
            base64.as_bytes().chunks(64).map(|l| [l, b"\r\n"].concat()).collect::<Vec<_>>();
        for body in [der, base64.into_bytes(), broken.concat()] {
            assert_eq!(check(&body, None), Ok(spki.clone()));
        }
    }

    #[test]
    fn a_request_for_more_than_a_client_certificate_is_refused() {
        let (ca, _) = request(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        assert_eq!(check(&ca, None), Err(CsrError::Authority));
        let (dns, _) = request(|p| {
            p.subject_alt_names = vec![SanType::DnsName("hq.example".try_into().expect("name"))];
        });
        assert_eq!(check(&dns, Some("x")), Err(CsrError::ForeignName));
        let (own, _) = request(|p| {
            p.subject_alt_names = vec![SanType::URI("urn:uuid:x".try_into().expect("uri"))];
        });
        assert!(check(&own, Some("x")).is_ok());
        assert_eq!(check(&own, Some("y")), Err(CsrError::ForeignName));
    }

    #[test]
    fn a_request_changed_after_signing_is_refused() {
        let (mut der, _) = request(|_| {});
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(matches!(check(&der, None), Err(CsrError::Signature | CsrError::Malformed)));
        assert_eq!(check(b"hello", None), Err(CsrError::Malformed));
    }
}
