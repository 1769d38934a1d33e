// SPDX-License-Identifier: Apache-2.0
//! The two witnesses of a site: the one at HQ, and the box on site that the desired state names.

use super::client::{HqClient, HqError};
use super::reply::Trust;
use super::tls::TlsMemory;
use super::witness::Witness;
use crate::enrol::flow::{identity, witness_client_for};
use crate::hq::client::error_chain;
use crate::identity::key::DeviceKey;
use crate::identity::record::EnrolmentRecord;
use crate::pair::executor::WitnessPort;
use crate::status::{Concern, Hub};
use agent_core::WitnessAt;
use async_trait::async_trait;
use provisioning_protocol::desired::Desired;
use provisioning_protocol::local_witness::{WitnessBox, box_name};
use provisioning_protocol::witness::{WitnessAnswer, WitnessRecord, WitnessSwap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Both, by where they stand.
pub struct Witnesses {
    hq: Witness,
    record: EnrolmentRecord,
    key: Arc<DeviceKey>,
    memory: Arc<TlsMemory>,
    desired: watch::Receiver<Option<Desired>>,
    local: Mutex<Option<(WitnessBox, Witness)>>,
    hub: Arc<Hub>,
}

impl Witnesses {
    /// Of an enrolled server.
    ///
    /// # Errors
    /// [`HqError`].
    pub fn new(
        record: &EnrolmentRecord,
        key: &Arc<DeviceKey>,
        memory: &Arc<TlsMemory>,
        desired: watch::Receiver<Option<Desired>>,
        hub: Arc<Hub>,
    ) -> Result<Self, HqError> {
        let keys = record.owner.voucher_keys_spki.iter().map(String::as_str);
        let trust = Trust::new(&record.site, record.slot, keys);
        Ok(Self {
            hq: Witness::new(witness_client_for(record, key, memory.clone())?, trust),
            record: record.clone(),
            key: key.clone(),
            memory: memory.clone(),
            desired,
            local: Mutex::new(None),
            hub,
        })
    }

    /// A client for the box as the desired state names it now. Only a box with this site's own name
    /// in its certificate is talked to, and only what its enrolled key has signed is believed.
    fn local(&self) -> Option<Witness> {
        let wanted = self.desired.borrow().as_ref()?.local_witness.clone()?;
        let mut kept = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, witness)) = kept.as_ref().filter(|(at, _)| *at == wanted) {
            return Some(witness.clone());
        }
        let name = box_name(&self.record.site);
        let root = &self.record.owner.hq_root_ca_pem;
        let identity = identity(&self.record, &self.key);
        match HqClient::pinned(&name, wanted.address, root, self.memory.clone(), identity) {
            Ok(client) => {
                let keys = [wanted.key_spki.as_str()];
                let trust = Trust::new(&self.record.site, self.record.slot, keys);
                let witness = Witness::new(client, trust);
                *kept = Some((wanted, witness.clone()));
                Some(witness)
            }
            Err(error) => {
                tracing::error!(error = error_chain(&error), "no client for the witness on site");
                None
            }
        }
    }

    fn at(&self, at: WitnessAt) -> Option<Witness> {
        match at {
            WitnessAt::Hq => Some(self.hq.clone()),
            WitnessAt::Local => self.local(),
        }
    }

    /// Says on the console and to HQ that a witness's replies are not believed.
    fn tell(&self, at: WitnessAt, witness: Option<&Witness>) {
        let (place, object) = match at {
            WitnessAt::Hq => ("at HQ", "witness-hq"),
            WitnessAt::Local => ("on site", "witness-site"),
        };
        let words = witness.and_then(Witness::disbelieved).map(|why| {
            format!("The reply of the witness {place} is not believed, and none counts: {why}")
        });
        self.hub.problem(Concern::Hq, object, words);
    }
}

#[async_trait]
impl WitnessPort for Witnesses {
    async fn swap(&self, at: WitnessAt, swap: &WitnessSwap) -> Option<WitnessAnswer> {
        let witness = self.at(at);
        let answer = match &witness {
            Some(witness) => witness.swap(swap).await,
            None => None,
        };
        self.tell(at, witness.as_ref());
        answer
    }
    async fn record(&self, at: WitnessAt) -> Option<WitnessRecord> {
        let witness = self.at(at);
        let record = match &witness {
            Some(witness) => witness.record().await,
            None => None,
        };
        self.tell(at, witness.as_ref());
        record
    }
}
