// SPDX-License-Identifier: Apache-2.0
//! Signing replies, at HQ and on site alike: see [`provisioning_protocol::witness_reply`].

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::EcdsaKeyPair;
use data_encoding::HEXLOWER;
use provisioning_protocol::witness_reply::Asked;

/// The signature of a reply to this question, as its header wants it; none if the system gave no
/// random bytes. The key is one for ES256 with signatures of a fixed length.
#[must_use]
pub fn reply(key: &EcdsaKeyPair, asked: &Asked<'_>, reply: &[u8]) -> Option<String> {
    let signature = key.sign(&SystemRandom::new(), &asked.signed(reply)).ok()?;
    Some(HEXLOWER.encode(signature.as_ref()))
}
