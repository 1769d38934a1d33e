// SPDX-License-Identifier: Apache-2.0
//! What HQ takes from servers and operators, and everything of the catalogue.

use provisioning_catalogue::chunks::{ChunkHash, pack, unpack};
use provisioning_catalogue::manifest::Manifest;
use provisioning_catalogue::template_file::Template;
use provisioning_catalogue::yaml;
use provisioning_hq::http::parse_json;
use provisioning_hq::{csr, jws};
use provisioning_protocol::enrol::{EnrollStatus, Jws, VoucherRequest};
use provisioning_protocol::operator::{Blueprint, NewSite};
use provisioning_protocol::report::Report;
use provisioning_protocol::witness::WitnessSwap;
use std::path::Path;

/// Longest image of a fuzzed chunk.
const CHUNK_BYTES: usize = 64 * 1024;

/// `template.yaml`, a blueprint and a site, as people write them.
pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = Path::new("/nonexistent/template");
    let _ = Template::parse(&text, file);
    let _ = yaml::parse::<Blueprint>(&text, file);
    let _ = yaml::parse::<NewSite>(&text, file);
}

/// A manifest with its chunk index: what is read is written again the same.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::from_json(data) else { return };
    let again = Manifest::from_json(&manifest.to_json()).expect("what was sound stays so");
    assert_eq!(manifest, again);
    assert_eq!(manifest.system_image().placed().count(), manifest.system_image().extents.len());
}

/// A packed chunk under a name it cannot have, and the same bytes as a chunk of their own.
pub fn chunk(data: &[u8]) {
    assert!(unpack(&ChunkHash::of(b"another"), CHUNK_BYTES, data).is_err());
    let _ = ChunkHash::from_path(&String::from_utf8_lossy(data));
    if !data.is_empty() && data.len() <= CHUNK_BYTES {
        let hash = ChunkHash::of(data);
        let whole = unpack(&hash, data.len(), &pack(data, 1)).expect("packed just now");
        assert_eq!(whole, data);
    }
}

/// Request bodies of servers and operators.
pub fn bodies(data: &[u8]) {
    let _ = (parse_json::<Report>(data), parse_json::<WitnessSwap>(data));
    let _ = (parse_json::<EnrollStatus>(data), parse_json::<VoucherRequest>(data));
    let _ = (parse_json::<Blueprint>(data), parse_json::<NewSite>(data));
    if let Ok(signed) = parse_json::<Jws>(data) {
        let _ = (jws::unverified_payload(&signed), jws::verify(&signed, &[4; 91]));
    }
    let _ = csr::check(data, Some("x"));
}
