// SPDX-License-Identifier: Apache-2.0
//! The certs-only CMS message of EST, put in order: our certificate, then its issuers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use der::{Decode as _, Encode as _};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Most certificates believed in one answer.
const CERTIFICATES_MAX: usize = 8;

/// Why HQ's answer holds no certificate for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// Not base64 of certs-only CMS.
    #[error("HQ's answer holds no certificates")]
    Encoding,
    /// None carries our key.
    #[error("HQ's answer holds no certificate for this server's key")]
    NotOurs,
    /// The certificate names another device than the voucher.
    #[error("HQ's certificate names another device than its voucher")]
    OtherDevice,
}

/// Reads all certificates of a base64 certs-only CMS message.
///
/// # Errors
/// [`ChainError::Encoding`].
pub fn certificates(body: &[u8]) -> Result<Vec<Vec<u8>>, ChainError> {
    let bad = |_| ChainError::Encoding;
    let text: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(text).map_err(|_| ChainError::Encoding)?;
    let info = ContentInfo::from_der(&der).map_err(bad)?;
    let inner = info.content.to_der().map_err(bad)?;
    let signed = SignedData::from_der(&inner).map_err(bad)?;
    let set = signed.certificates.ok_or(ChainError::Encoding)?;
    let mut found = Vec::new();
    for choice in set.0.iter().take(CERTIFICATES_MAX) {
        if let CertificateChoices::Certificate(cert) = choice {
            found.push(cert.to_der().map_err(bad)?);
        }
    }
    Ok(found)
}

/// Our certificate first, then each issuer below the root.
///
/// # Errors
/// [`ChainError`].
pub fn order(all: &[Vec<u8>], spki: &[u8], device: &str) -> Result<Vec<Vec<u8>>, ChainError> {
    let parsed: Vec<(&Vec<u8>, X509Certificate<'_>)> = all
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, cert)| (der, cert)))
        .collect();
    let (der, leaf) =
        parsed.iter().find(|(_, cert)| cert.public_key().raw == spki).ok_or(ChainError::NotOurs)?;
    if !names_device(leaf, device) {
        return Err(ChainError::OtherDevice);
    }
    let mut chain = vec![(*der).clone()];
    let mut at = leaf;
    while chain.len() < CERTIFICATES_MAX && at.issuer() != at.subject() {
        let above = parsed
            .iter()
            .find(|(_, cert)| cert.subject() == at.issuer() && cert.issuer() != cert.subject());
        let Some((der, cert)) = above else { break };
        chain.push((*der).clone());
        at = cert;
    }
    Ok(chain)
}

fn names_device(cert: &X509Certificate<'_>, device: &str) -> bool {
    use x509_parser::extensions::GeneralName;
    let wanted = format!("urn:uuid:{device}");
    let Ok(Some(san)) = cert.subject_alternative_name() else { return false };
    san.value
        .general_names
        .iter()
        .any(|name| matches!(name, GeneralName::URI(uri) if uri.eq_ignore_ascii_case(&wanted)))
}
