// SPDX-License-Identifier: Apache-2.0
//! One run from claim stick to certificate, and the loop that never gives up.
//!
//! ```text
//! stick ─► M1 voucher request ─► check voucher ─► clock ─► M2 CA certificates ─► M3 certificate
//!                                                             └► record on disk ─► M4 status
//! ```
//! Nothing is kept before M3 succeeded: a power cut anywhere starts from the beginning, with the
//! same device key, which HQ knows again.

use super::backoff::Backoff;
use super::chain::{self, ChainError};
use super::jws;
use super::voucher::{self, VoucherError};
use crate::durable::file::FileError;
use crate::hq::client::{Call, HqClient, HqError, Identity};
use crate::hq::tls::TlsMemory;
use crate::identity::clock;
use crate::identity::hardware::Hardware;
use crate::identity::key::{DeviceKey, KeyError};
use crate::identity::record::EnrolmentRecord;
use crate::identity::stick::{Stick, StickError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provisioning_protocol::enrol::{
    CACERTS_PATH, ENROLL_STATUS_PATH, EnrollStatus, Jws, REQUEST_VOUCHER_PATH, SIMPLE_ENROLL_PATH,
    VOUCHER_JWS, Voucher, VoucherRequest,
};
use provisioning_protocol::status::Enrolment;
use rustls::pki_types::CertificateDer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why one attempt failed; the text is shown on the console.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The claim stick.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// HQ.
    #[error(transparent)]
    Hq(#[from] HqError),
    /// The voucher.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
    /// The certificate.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The device key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The record could not be kept.
    #[error("Cannot keep the enrolment record")]
    Keep(#[from] FileError),
    /// The clock could not be set.
    #[error("Cannot set the clock to HQ's signed time")]
    Clock(#[source] std::io::Error),
}

impl EnrolError {
    /// How far it got, for the console.
    #[must_use]
    pub fn stage(&self) -> Enrolment {
        match self {
            Self::Stick(_) => Enrolment::NoClaim,
            Self::Hq(HqError::Later { .. }) => Enrolment::Pending,
            Self::Hq(HqError::Refused(_)) => Enrolment::Refused,
            _ => Enrolment::Asking,
        }
    }

    /// What HQ asked us to wait, if it did.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Hq(HqError::Later { wait_s, .. }) => Some(Duration::from_secs(*wait_s)),
            Self::Stick(_) => Some(Duration::from_secs(2)),
            Self::Hq(err) if err.no_network() => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// What an attempt needs besides the stick.
#[derive(Debug)]
pub struct Enroller {
    /// Folder of keys and record.
    pub identity_dir: PathBuf,
    /// The device key.
    pub key: Arc<DeviceKey>,
    /// Facts.
    pub hardware: Hardware,
    /// OS image version.
    pub image: String,
    /// TLS memory shared with the rest of the agent.
    pub memory: Arc<TlsMemory>,
    /// Sets the clock; returns whether it moved.
    pub set_clock: fn(u64) -> std::io::Result<bool>,
}

impl Enroller {
    /// Tries until it works. `tell` hears of each failure.
    pub async fn run<S, T>(&self, read_stick: S, mut tell: T) -> EnrolmentRecord
    where
        S: Fn() -> Result<Stick, StickError>,
        T: FnMut(Option<&Stick>, &EnrolError),
    {
        let mut backoff = Backoff::default();
        loop {
            let stick = read_stick();
            let result = match &stick {
                Ok(stick) => self.attempt(stick).await,
                Err(_) => Err(EnrolError::Stick(StickError::Absent)),
            };
            let err = match (result, stick) {
                (Ok(record), _) => return record,
                (Err(_), Err(err)) => {
                    let err = EnrolError::Stick(err);
                    tell(None, &err);
                    err
                }
                (Err(err), Ok(stick)) => {
                    tell(Some(&stick), &err);
                    err
                }
            };
            let wait = match err.wait() {
                Some(wait) => wait,
                None => backoff.next_wait(),
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// M1 to M4 once.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub async fn attempt(&self, stick: &Stick) -> Result<EnrolmentRecord, EnrolError> {
        let owner = &stick.owner;
        self.memory.set_clock_trusted(clock::plausible(clock::now_s(), owner.build_epoch_s));
        let hq = HqClient::new(&owner.hq_urls, &owner.hq_root_ca_pem, self.memory.clone(), None)?;
        let voucher = self.voucher(&hq, stick).await?;
        (self.set_clock)(voucher.created_on_s).map_err(EnrolError::Clock)?;
        self.memory.set_clock_trusted(true);
        let chain = self.certificate(&hq, stick, &voucher).await?;
        let record = EnrolmentRecord {
            v: 1,
            device_id: voucher.device_id,
            site: voucher.site,
            slot: voucher.slot,
            owner: owner.clone(),
            chain: chain.iter().map(|der| STANDARD.encode(der)).collect(),
            time_floor_s: voucher.created_on_s,
        };
        record.store(&self.identity_dir)?;
        self.say_done(&record).await;
        Ok(record)
    }

    async fn voucher(&self, hq: &HqClient, stick: &Stick) -> Result<Voucher, EnrolError> {
        let mut nonce = [0u8; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Crypto("give random bytes"))?;
        let request = VoucherRequest {
            nonce: STANDARD.encode(nonce),
            serial_number: self.hardware.serial.clone(),
            device_spki: STANDARD.encode(self.key.spki_der()),
            hw: self.hardware.facts.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            image: self.image.clone(),
            claim_id: Some(stick.claim.id().to_owned()),
            rtc_s: clock::now_s(),
        };
        let payload = serde_json::to_vec(&request).expect("plain data becomes JSON");
        let signed =
            serde_json::to_vec(&jws::sign(&self.key, &payload)?).expect("plain data becomes JSON");
        let sent = Instant::now();
        let answer = hq
            .call(
                Call::post(REQUEST_VOUCHER_PATH, VOUCHER_JWS, signed).header("accept", VOUCHER_JWS),
            )
            .await?;
        let jws: Jws = serde_json::from_slice(&answer.body)
            .map_err(|_| HqError::Answer { url: hq.url().to_owned(), what: "voucher" })?;
        Ok(voucher::check(&jws, &request, &stick.owner, sent.elapsed())?)
    }

    async fn certificate(
        &self,
        hq: &HqClient,
        stick: &Stick,
        voucher: &Voucher,
    ) -> Result<Vec<Vec<u8>>, EnrolError> {
        let issuers = hq.call(Call::get(CACERTS_PATH)).await?;
        let body = STANDARD.encode(self.key.certificate_request()?).into_bytes();
        let basic = format!("{}:{}", self.hardware.serial, stick.claim.secret());
        let call = Call::post(SIMPLE_ENROLL_PATH, "application/pkcs10", body)
            .header("content-transfer-encoding", "base64")
            .header("authorization", format!("Basic {}", STANDARD.encode(basic)));
        let answer = hq.call(call).await?;
        let mut all = chain::certificates(&answer.body)?;
        all.extend(chain::certificates(&issuers.body)?);
        Ok(chain::order(&all, &self.key.spki_der(), &voucher.device_id.0)?)
    }

    /// M4: for HQ's log only, so a failure is only logged.
    async fn say_done(&self, record: &EnrolmentRecord) {
        let status = EnrollStatus { version: 1, status: true, reason: String::new() };
        let body = serde_json::to_vec(&status).expect("plain data becomes JSON");
        let sent = match client_for(record, &self.key, self.memory.clone()) {
            Ok(hq) => hq.call(Call::post(ENROLL_STATUS_PATH, "application/json", body)).await,
            Err(err) => Err(err),
        };
        if let Err(error) = sent {
            tracing::info!(%error, "HQ was not told that enrolment succeeded");
        }
    }
}

/// The client of an enrolled server: pinned root, own certificate.
///
/// # Errors
/// [`HqError`].
pub fn client_for(
    record: &EnrolmentRecord,
    key: &DeviceKey,
    memory: Arc<TlsMemory>,
) -> Result<HqClient, HqError> {
    let owner = &record.owner;
    HqClient::new(&owner.hq_urls, &owner.hq_root_ca_pem, memory, Some(identity(record, key)))
}

/// Another one for the witness, which notices a dead connection sooner.
///
/// # Errors
/// [`HqError`].
pub fn witness_client_for(
    record: &EnrolmentRecord,
    key: &DeviceKey,
    memory: Arc<TlsMemory>,
) -> Result<HqClient, HqError> {
    let (owner, identity) = (&record.owner, Some(identity(record, key)));
    let keep = Duration::from_secs(2);
    HqClient::with_keep_alive(&owner.hq_urls, &owner.hq_root_ca_pem, memory, identity, keep)
}

/// What an enrolled server shows of itself.
pub(crate) fn identity(record: &EnrolmentRecord, key: &DeviceKey) -> Identity {
    let chain = record
        .chain
        .iter()
        .filter_map(|text| STANDARD.decode(text).ok())
        .map(CertificateDer::from)
        .collect();
    (chain, key.tls_key())
}
