// SPDX-License-Identifier: Apache-2.0
//! Renewing the client certificate before it ends (EST, RFC 7030 section 4.2.2), for the same key.
//!
//! From two thirds of the certificate's life HQ is asked once an hour. The new certificate is kept
//! on disk first; then the agent ends itself in a calm moment and is started again with it, since
//! open connections would go on with the old one. VMs do not notice a restart of the agent.

use super::backoff::jitter;
use super::chain::{self, ChainError};
use crate::durable::file::FileError;
use crate::hq::client::{Call, HqClient, HqError, error_chain};
use crate::hq::tls::TlsMemory;
use crate::identity::clock;
use crate::identity::key::{DeviceKey, KeyError};
use crate::identity::record::EnrolmentRecord;
use crate::status::{Concern, Hub};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provisioning_protocol::enrol::SIMPLE_REENROLL_PATH;
use provisioning_protocol::peer::PeerState;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Between looks, and between tries.
const PERIOD_MS: u64 = 3_600_000;
/// How long a calm moment is waited for.
const CALM_LIMIT: Duration = Duration::from_secs(24 * 3600);
const CALM_POLL: Duration = Duration::from_secs(5);
/// With less than this left, people are told.
const WARN_S: u64 = 14 * 24 * 3600;

/// Why HQ's answer is no renewal.
#[derive(Debug, Error)]
pub enum RenewError {
    /// HQ.
    #[error(transparent)]
    Hq(#[from] HqError),
    /// The device key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What HQ sent.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It ends no later than the one at hand: taking it would be asked for again at once.
    #[error("HQ's new certificate ends no later than the present one")]
    NoGain,
    /// The record could not be kept.
    #[error("Cannot keep the enrolment record")]
    Keep(#[from] FileError),
}

/// A certificate's first and last second, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// `notBefore`.
    pub from_s: u64,
    /// `notAfter`.
    pub to_s: u64,
}

impl Life {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let at = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp().max(0)).ok();
        let validity = cert.validity();
        Some(Self { from_s: at(validity.not_before)?, to_s: at(validity.not_after)? })
    }

    /// Whether two thirds of it are over.
    #[must_use]
    pub fn is_due(self, now_s: u64) -> bool {
        let third = self.to_s.saturating_sub(self.from_s) / 3;
        now_s.saturating_add(third) >= self.to_s
    }
}

/// Renews one server's certificate.
pub struct Renewer {
    /// HQ, with the present certificate.
    pub hq: HqClient,
    /// The device key.
    pub key: Arc<DeviceKey>,
    /// The record, which holds the certificate.
    pub record: Arc<Mutex<EnrolmentRecord>>,
    /// Where the record is kept.
    pub identity_dir: PathBuf,
    /// Knows whether the clock counts.
    pub memory: Arc<TlsMemory>,
    /// Status.
    pub hub: Arc<Hub>,
}

impl Renewer {
    /// Returns once a new certificate is on disk and the agent may be restarted.
    pub async fn run(self) {
        loop {
            let life = self.life();
            if self.memory.clock_trusted() && life.is_none_or(|life| life.is_due(clock::now_s())) {
                match self.attempt().await {
                    Ok(()) => break,
                    Err(err) => self.tell(life, &error_chain(&err)),
                }
            }
            tokio::time::sleep(jitter(PERIOD_MS)).await;
        }
        self.hub.problem(Concern::Enrolment, "renewal", None);
        self.hub.event("renewed", "HQ renewed this server's certificate");
        drop(tokio::time::timeout(CALM_LIMIT, self.calm()).await);
    }

    /// Asks HQ once and keeps what it gives.
    ///
    /// # Errors
    /// [`RenewError`]; the record is as it was.
    pub async fn attempt(&self) -> Result<(), RenewError> {
        let device = self.record().device_id.clone();
        let body = STANDARD.encode(self.key.certificate_request()?).into_bytes();
        let call = Call::post(SIMPLE_REENROLL_PATH, "application/pkcs10", body)
            .header("content-transfer-encoding", "base64");
        let answer = self.hq.call(call).await?;
        let all = chain::certificates(&answer.body)?;
        let chain = chain::order(&all, &self.key.spki_der(), &device.0)?;
        let gained = chain.first().and_then(|der| Life::of(der)).map(|life| life.to_s);
        if gained <= self.life().map(|life| life.to_s) {
            return Err(RenewError::NoGain);
        }
        let mut record = self.record();
        let mut renewed = record.clone();
        renewed.chain = chain.iter().map(|der| STANDARD.encode(der)).collect();
        renewed.store(&self.identity_dir)?;
        *record = renewed;
        Ok(())
    }

    fn record(&self) -> std::sync::MutexGuard<'_, EnrolmentRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> Option<Life> {
        let leaf = self.record().chain.first().cloned()?;
        Life::of(&STANDARD.decode(leaf).ok()?)
    }

    fn tell(&self, life: Option<Life>, why: &str) {
        tracing::warn!(why, "certificate not renewed");
        let left_s = life.map_or(0, |life| life.to_s.saturating_sub(clock::now_s()));
        let words = (left_s < WARN_S).then(|| {
            let days = left_s / 86_400;
            format!("This server's certificate ends in {days} days and is not renewed: {why}")
        });
        self.hub.problem(Concern::Enrolment, "renewal", words);
    }

    /// Waits until nothing is being decided in the pair.
    async fn calm(&self) {
        let calm = |state| matches!(state, PeerState::Pair | PeerState::Solo);
        while !self.hub.read(|all| all.pair.as_ref().is_some_and(|pair| calm(pair.state))) {
            tokio::time::sleep(CALM_POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_third_of_a_life_is_for_renewing() {
        let life = Life { from_s: 1_000, to_s: 4_000 };
        assert!(!life.is_due(0) && !life.is_due(2_999));
        assert!(life.is_due(3_000) && life.is_due(9_000));
        assert!(Life { from_s: 5, to_s: 0 }.is_due(0), "a life turned round is over");
    }

    #[test]
    fn what_is_no_certificate_has_no_life() {
        assert_eq!(Life::of(b"0"), None);
    }
}
