// SPDX-License-Identifier: Apache-2.0
//! Every seed goes through its target without libFuzzer, too; and each target has seeds that are
//! read, for a fuzzer that never gets past the first brace looks at nothing.

use provisioning_protocol::desired::Desired;
use provisioning_protocol::enrol::{Jws, VoucherRequest};
use provisioning_protocol::local_witness::{BoxAdmission, BoxRequest, WitnessBoxClaim};
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::peer::PeerDatagram;
use provisioning_protocol::report::Report;
use provisioning_protocol::status::LocalStatus;
use provisioning_protocol::witness::{WitnessAnswer, WitnessSwap};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tests_fuzz::TARGETS;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn seed(name: &str) -> Vec<u8> {
    std::fs::read(data().join(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&seed(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

#[test]
fn no_seed_breaks_its_target() {
    for target in TARGETS {
        let folder = data().join(target.name);
        let seeds: Vec<_> = std::fs::read_dir(&folder).expect("a folder of seeds").collect();
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for entry in seeds {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            (target.run)(&std::fs::read(path).expect("a file"));
        }
        (target.run)(b"");
    }
}

#[test]
fn every_folder_of_seeds_has_a_target() {
    let folders: BTreeSet<String> = std::fs::read_dir(data())
        .expect("the folder of seeds")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
        .collect();
    assert_eq!(folders, TARGETS.iter().map(|target| target.name.to_owned()).collect());
}

#[test]
fn the_seeds_are_what_is_really_sent_and_stored() {
    read::<PeerDatagram>("peer/pair");
    read::<PeerDatagram>("peer/last-epoch");
    assert!(read::<WitnessAnswer>("witness/granted").granted);
    read::<WitnessSwap>("bodies/swap");
    read::<LocalStatus>("status/pair");
    read::<LocalStatus>("status/far-times");
    read::<Report>("bodies/report");
    read::<VoucherRequest>("bodies/voucher-request");
    read::<Jws>("enrol/voucher-jws");
    read::<Desired>("desired/pair");
    let owner = read::<OwnerBundle>("stick/owner");
    assert_eq!(agent_daemon::identity::stick::check_owner(&owner), Ok(()));
    let all = agent_daemon::enrol::chain::certificates(&seed("enrol/certificates"));
    assert_eq!(all.map(|all| all.len()), Ok(1));
    assert!(provisioning_hq::csr::check(&seed("bodies/csr"), None).is_ok());
    assert!(provisioning_catalogue::manifest::Manifest::from_json(&seed("manifest/sound")).is_ok());
    provisioning_hq::http::parse_json::<BoxRequest>(&seed("box/request"))
        .map_err(drop)
        .expect("readable");
    read::<BoxAdmission>("box/admission");
    read::<WitnessBoxClaim>("box/claim");
    assert_eq!(
        provisioning_witness::store::last_state(&seed("box/log")).expect("whole").record.version,
        4
    );
    let (seq, payload) = agent_daemon::durable::slots::decode(&seed("slot/pair")).expect("whole");
    assert_eq!(seq, 3);
    assert!(agent_daemon::pair::engine::durable(Some(payload)).is_some());
}

#[test]
fn a_line_that_offers_awaited_memory_is_taken() {
    let taken = |name: &str| agent_daemon::peer::memory::read_any(&seed(name));
    assert!(taken("memory/awaited"));
    assert!(!taken("memory/last-ticket"));
}
