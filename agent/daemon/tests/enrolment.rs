// SPDX-License-Identifier: Apache-2.0
//! Enrolment against an HQ over real TLS: the good run, and every lie that must be refused.

mod fake_hq;

use agent_daemon::durable::causes::Causes;
use agent_daemon::enrol::chain::ChainError;
use agent_daemon::enrol::flow::{EnrolError, Enroller, client_for};
use agent_daemon::enrol::jws::JwsError;
use agent_daemon::enrol::renew::{RenewError, Renewer};
use agent_daemon::enrol::voucher::VoucherError;
use agent_daemon::hq::client::HqError;
use agent_daemon::hq::tls::TlsMemory;
use agent_daemon::identity::hardware::Hardware;
use agent_daemon::identity::key::DeviceKey;
use agent_daemon::identity::record::EnrolmentRecord;
use agent_daemon::identity::stick::{Stick, StickError};
use agent_daemon::status::Hub;
use agent_daemon::status::hub::Fixed;
use fake_hq::{DEVICE, FakeHq, NOW_S};
use provisioning_protocol::claim::ClaimCode;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::status::Enrolment;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

static CLOCK: AtomicU64 = AtomicU64::new(0);

struct Server {
    dir: TempDir,
    enroller: Enroller,
}

fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let key = Arc::new(DeviceKey::load_or_make(dir.path()).unwrap());
    let enroller = Enroller {
        identity_dir: dir.path().to_owned(),
        key,
        hardware: Hardware { serial: "SN-1".into(), facts: Default::default() },
        image: "test".into(),
        memory: Arc::new(TlsMemory::default()),
        set_clock: |seconds| {
            CLOCK.store(seconds, Ordering::SeqCst);
            Ok(true)
        },
    };
    Server { dir, enroller }
}

fn stick(hq: &FakeHq) -> Stick {
    Stick { claim: hq.claim.clone(), owner: hq.owner.clone() }
}

/// The error of one attempt; nothing may have been kept.
async fn refused(server: &Server, stick: &Stick) -> EnrolError {
    let err = server.enroller.attempt(stick).await.expect_err("must be refused");
    assert_eq!(EnrolmentRecord::load(server.dir.path()).unwrap(), None, "a record was kept");
    err
}

#[tokio::test]
async fn a_server_gets_its_certificate_and_its_place() {
    let (hq, server) = (FakeHq::start(false).await, server());
    let record = server.enroller.attempt(&stick(&hq)).await.unwrap();
    assert_eq!((record.slot, record.device_id.0.as_str()), (NodeSlot::B, DEVICE));
    assert_eq!(record.chain.len(), 2, "leaf and issuing CA, without the root");
    assert_eq!(EnrolmentRecord::load(server.dir.path()).unwrap(), Some(record));
    assert_eq!(*hq.log.lock().unwrap(), ["M1", "M2", "M3", "M4"]);
    assert_eq!(CLOCK.load(Ordering::SeqCst), NOW_S, "the voucher sets the clock");
}

#[tokio::test]
async fn a_dead_clock_does_not_stop_enrolment_and_a_good_one_judges_dates() {
    let hq = FakeHq::start(true).await;
    // The build epoch lies ahead of this machine's clock: it cannot be right.
    let (first, owner) = (server(), hq.owner.clone());
    let dead = OwnerBundle { build_epoch_s: NOW_S - 10, ..owner.clone() };
    first.enroller.attempt(&Stick { owner: dead, ..stick(&hq) }).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let good = OwnerBundle { build_epoch_s: now.as_secs() - 3600, ..owner };
    let err = refused(&server(), &Stick { owner: good, ..stick(&hq) }).await;
    let EnrolError::Hq(HqError::Unreachable { reason, .. }) = &err else { panic!("{err}") };
    assert!(reason.contains("expired"), "{reason}");
}

#[tokio::test]
async fn another_ca_is_refused_by_name() {
    let (hq, other) = (FakeHq::start(false).await, FakeHq::start(false).await);
    let owner =
        OwnerBundle { hq_root_ca_pem: other.owner.hq_root_ca_pem.clone(), ..hq.owner.clone() };
    let err = refused(&server(), &Stick { owner, ..stick(&hq) }).await;
    let EnrolError::Hq(HqError::WrongCa { issuer, .. }) = &err else { panic!("{err}") };
    assert!(issuer.contains("Fake issuing"), "{issuer}");
    assert!(hq.log.lock().unwrap().is_empty(), "nothing may be said to a stranger");
}

#[tokio::test]
async fn a_voucher_that_is_not_for_us_now_is_refused() {
    type Change = fn(&mut provisioning_protocol::enrol::Voucher);
    let cases: [(Change, VoucherError); 7] = [
        (|v| v.nonce = "AAAA".into(), VoucherError::Echo("request")),
        (|v| v.serial_number = "SN-2".into(), VoucherError::Echo("serial number")),
        (|v| v.device_spki = "AAAA".into(), VoucherError::Echo("device key")),
        (|v| v.expires_on_s = v.created_on_s, VoucherError::Expired),
        (|v| v.expires_on_s = v.created_on_s - 1, VoucherError::Expired),
        (|v| v.expires_on_s = v.created_on_s + 86_400, VoucherError::TooLong),
        (|v| v.created_on_s = 1000, VoucherError::TooLong),
    ];
    let hq = FakeHq::start(false).await;
    for (change, why) in cases {
        hq.faults.lock().unwrap().voucher = Some(change);
        let err = refused(&server(), &stick(&hq)).await;
        assert!(matches!(&err, EnrolError::Voucher(got) if *got == why), "{err}, not {why}");
    }
    assert!(!hq.log.lock().unwrap().contains(&"M3"), "the claim code was given away");
}

#[tokio::test]
async fn a_voucher_of_another_signer_or_with_another_pin_is_refused() {
    let hq = FakeHq::start(false).await;
    hq.faults.lock().unwrap().strange_signer = true;
    let err = refused(&server(), &stick(&hq)).await;
    let signature = VoucherError::Signature(JwsError::Signature);
    assert!(matches!(&err, EnrolError::Voucher(got) if *got == signature), "{err}");

    let hq = FakeHq::start(false).await;
    hq.faults.lock().unwrap().voucher = Some(|voucher| {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        voucher.pinned_domain_cert = cert.pem();
    });
    let err = refused(&server(), &stick(&hq)).await;
    assert!(matches!(&err, EnrolError::Voucher(VoucherError::Pin)), "{err}");
}

#[tokio::test]
async fn a_refused_claim_says_why_and_a_pending_one_waits_as_told() {
    let hq = FakeHq::start(false).await;
    hq.faults.lock().unwrap().refuse = Some((422, "expired_claim", None));
    let err = refused(&server(), &stick(&hq)).await;
    assert_eq!(err.stage(), Enrolment::Refused);
    assert!(err.to_string().contains("expired_claim"), "{err}");

    hq.faults.lock().unwrap().refuse = Some((202, "pending", Some(17)));
    let err = refused(&server(), &stick(&hq)).await;
    assert_eq!((err.stage(), err.wait().map(|w| w.as_secs())), (Enrolment::Pending, Some(17)));

    hq.faults.lock().unwrap().refuse = None;
    // A code with the right public part and another secret.
    let wrong = (0..255u8)
        .map(|n| ClaimCode::from_random(&[3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]))
        .find(|code| *code != hq.claim)
        .unwrap();
    let err = refused(&server(), &Stick { claim: wrong, ..stick(&hq) }).await;
    assert!(err.to_string().contains("bad_claim"), "{err}");
}

#[tokio::test]
async fn a_certificate_for_another_device_is_refused() {
    let hq = FakeHq::start(false).await;
    hq.faults.lock().unwrap().other_device = true;
    let err = refused(&server(), &stick(&hq)).await;
    assert!(matches!(&err, EnrolError::Chain(ChainError::OtherDevice)), "{err}");
}

#[tokio::test]
async fn enrolment_goes_on_by_itself_once_stick_and_hq_are_there() {
    let (hq, server) = (FakeHq::start(false).await, server());
    let tries = AtomicU64::new(0);
    let read = || match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Err(StickError::Missing("claim.txt")),
        _ => Ok(stick(&hq)),
    };
    let mut told = Vec::new();
    let record = server.enroller.run(read, |_, err| told.push(err.to_string())).await;
    assert_eq!(record.device_id.0, DEVICE);
    assert_eq!(told, ["The claim stick holds no claim.txt"]);
}

#[tokio::test]
async fn an_hq_that_is_down_is_named() {
    let hq = FakeHq::start(false).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let owner = OwnerBundle { hq_urls: vec![format!("https://{closed}")], ..hq.owner.clone() };
    let err = refused(&server(), &Stick { owner, ..stick(&hq) }).await;
    assert_eq!(err.stage(), Enrolment::Asking);
    assert!(err.to_string().contains(&closed.to_string()), "{err}");
}

fn renewer(server: &Server, record: &EnrolmentRecord) -> Renewer {
    let enroller = &server.enroller;
    let causes = Causes::new(server.dir.path().join("causes"), &server.dir.path().join("link"));
    Renewer {
        hq: client_for(record, &enroller.key, enroller.memory.clone()).unwrap(),
        key: enroller.key.clone(),
        record: Arc::new(Mutex::new(record.clone())),
        identity_dir: server.dir.path().to_owned(),
        memory: enroller.memory.clone(),
        hub: Arc::new(Hub::new(Fixed::default(), causes)),
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_kept_and_outlives_the_first() {
    let (hq, server) = (FakeHq::start(false).await, server());
    hq.faults.lock().unwrap().short = true;
    let first = server.enroller.attempt(&stick(&hq)).await.unwrap();
    hq.faults.lock().unwrap().short = false;
    renewer(&server, &first).attempt().await.unwrap();
    let kept = EnrolmentRecord::load(server.dir.path()).unwrap().unwrap();
    assert_ne!(kept.chain[0], first.chain[0]);
    assert_eq!(EnrolmentRecord { chain: first.chain.clone(), ..kept }, first);
    assert_eq!(hq.log.lock().unwrap().last(), Some(&"M5"));
}

#[tokio::test]
async fn a_renewal_without_gain_or_for_another_device_is_refused() {
    let (hq, server) = (FakeHq::start(false).await, server());
    hq.faults.lock().unwrap().short = true;
    let first = server.enroller.attempt(&stick(&hq)).await.unwrap();
    let renewer = renewer(&server, &first);
    let err = renewer.attempt().await.expect_err("it ends at the same time");
    assert!(matches!(err, RenewError::NoGain), "{err}");
    *hq.faults.lock().unwrap() = fake_hq::Faults { other_device: true, ..Default::default() };
    let err = renewer.attempt().await.expect_err("it names another device");
    assert!(matches!(err, RenewError::Chain(ChainError::OtherDevice)), "{err}");
    assert_eq!(EnrolmentRecord::load(server.dir.path()).unwrap(), Some(first));
}
