// SPDX-License-Identifier: Apache-2.0
//! The two witnesses of a site: the one at HQ, and the box on site that the desired state names.

use super::client::{HqClient, HqError};
use super::tls::TlsMemory;
use super::witness::Witness;
use crate::enrol::flow::{identity, witness_client_for};
use crate::hq::client::error_chain;
use crate::identity::key::DeviceKey;
use crate::identity::record::EnrolmentRecord;
use crate::pair::executor::WitnessPort;
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
    ) -> Result<Self, HqError> {
        Ok(Self {
            hq: Witness::new(witness_client_for(record, key, memory.clone())?),
            record: record.clone(),
            key: key.clone(),
            memory: memory.clone(),
            desired,
            local: Mutex::new(None),
        })
    }

    /// A client for the box as the desired state names it now. Only a box with this site's own name
    /// in its certificate is talked to.
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
                let witness = Witness::new(client);
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
}

#[async_trait]
impl WitnessPort for Witnesses {
    async fn swap(&self, at: WitnessAt, swap: &WitnessSwap) -> Option<WitnessAnswer> {
        self.at(at)?.swap(swap).await
    }
    async fn record(&self, at: WitnessAt) -> Option<WitnessRecord> {
        self.at(at)?.record().await
    }
}
