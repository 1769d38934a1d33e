// SPDX-License-Identifier: Apache-2.0
//! A witness's signed replies, and what a witness on site sends, gets and keeps.

use agent_daemon::hq::reply::Trust;
use provisioning_hq::http::parse_json;
use provisioning_hq::{csr, jws};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::enrol::Jws;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::local_witness::{BoxAdmission, BoxRequest, WitnessBoxClaim};
use provisioning_protocol::witness_reply::is_nonce;
use provisioning_witness::{pin, store};

/// A witness's public key; nobody has the private one any more.
pub(crate) const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEs4Ghj+FLt3V3JRB1dEoQZg9C\
    ZTQfpuGLHdS0DGWiVSQlRTga58Qia9UBQ8Gq4jW1bodplY0UpwiFBPVrjKztDQ==";

/// A line of signature, then the reply. Nobody can sign, so none may be believed.
pub fn reply(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (signature, reply) = data.split_at(at);
    let reply = reply.get(1..).unwrap_or_default();
    let signature = String::from_utf8_lossy(signature);
    let Ok(site) = SiteName::new("oslo") else { return };
    let trust = Trust::new(&site, NodeSlot::A, [KEY, "AAAA", "no base64"]);
    let nonce = "2".repeat(64);
    assert!(trust.check(&nonce, b"", Some(&signature), reply).is_err());
    assert!(trust.check(&nonce, b"", None, reply).is_err());
    let _ = is_nonce(&signature);
}

/// A box's request, HQ's admission, the operator's code, and the log on the box's disk.
pub fn witness_box(data: &[u8]) {
    let _ = (parse_json::<BoxAdmission>(data), parse_json::<WitnessBoxClaim>(data));
    if let Ok(signed) = parse_json::<Jws>(data) {
        let payload = jws::unverified_payload(&signed).unwrap_or_default();
        let _ = (parse_json::<BoxRequest>(&payload), jws::verify(&signed, &[4; 91]));
    }
    if let Ok(request) = parse_json::<BoxRequest>(data) {
        let _ = (ClaimCode::parse(&request.code), csr::check(request.csr.as_bytes(), None));
    }
    let _ = pin::client_config(&String::from_utf8_lossy(data));
    let _ = store::last_state(data);
}
