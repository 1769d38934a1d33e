// SPDX-License-Identifier: Apache-2.0
//! Keeps the BMC that HQ names, looks now and then whether it would be of use, and carries the core's
//! orders to it.

use super::PowerPort;
use super::redfish::{Power, Redfish};
use crate::hq::client::error_chain;
use crate::identity::hardware;
use crate::status::{Concern, Hub};
use agent_core::Input;
use async_trait::async_trait;
use provisioning_protocol::bmc::Bmc;
use provisioning_protocol::desired::Desired;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// A BMC is looked at this often, and sooner after a failure.
const LOOK_PERIOD: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A peer heard within this time is on.
const HEARD_MS: u64 = 2_000;

/// The other server's BMC, while there is one.
#[derive(Debug, Clone, Default)]
pub struct PeerBmc(Arc<Mutex<Option<Arc<Redfish>>>>);

impl PeerBmc {
    fn get(&self) -> Option<Arc<Redfish>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, bmc: Option<Arc<Redfish>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bmc;
    }
}

#[async_trait]
impl PowerPort for PeerBmc {
    async fn off(&self) -> bool {
        let Some(bmc) = self.get() else { return false };
        match bmc.off().await {
            Ok(()) => true,
            Err(err) => {
                tracing::warn!(error = error_chain(&err), "power-off not confirmed");
                false
            }
        }
    }

    async fn on(&self) {
        let Some(bmc) = self.get() else { return };
        if let Err(err) = bmc.on().await {
            tracing::warn!(error = error_chain(&err), "power not switched on");
        }
    }
}

/// Follows what HQ says.
pub struct Keeper {
    /// Where the orders go.
    pub bmc: PeerBmc,
    /// What HQ says.
    pub desired: watch::Receiver<Option<Desired>>,
    /// The core.
    pub inputs: mpsc::Sender<Input>,
    /// Status.
    pub hub: Arc<Hub>,
}

impl Keeper {
    /// Runs for as long as HQ's word may change.
    pub async fn run(mut self) {
        let mut known: Option<Bmc> = None;
        loop {
            let named = self.desired.borrow_and_update().as_ref().and_then(|d| d.peer_bmc.clone());
            if named != known {
                known.clone_from(&named);
                self.take(named.as_ref());
            }
            let (usable, wait) = self.look().await;
            drop(self.inputs.send(Input::BmcConfigured(usable)).await);
            if let Ok(Err(_)) = timeout(wait, self.desired.changed()).await {
                return;
            }
        }
    }

    fn take(&self, named: Option<&Bmc>) {
        let made = named.map(Redfish::new).transpose();
        let words =
            made.as_ref().err().map(|err| format!("The other server's BMC: {}", error_chain(err)));
        if let Some(words) = &words {
            tracing::error!(error = words, "BMC not usable");
        }
        self.hub.problem(Concern::Pair, "bmc-config", words);
        self.bmc.set(made.ok().flatten().map(Arc::new));
    }

    /// Whether it can be asked in need, and when to look again. One that cannot be reached now may be
    /// then; one that calls a living server off is not asked at all.
    async fn look(&self) -> (bool, Duration) {
        let Some(bmc) = self.bmc.get() else {
            self.hub.problem(Concern::Pair, "bmc", None);
            return (false, LOOK_PERIOD);
        };
        let power = bmc.look().await;
        let (usable, words) = match power {
            Ok(Power::Off) if self.peer_heard() => (
                false,
                Some(format!(
                    "The BMC {} says that the other server is off, and it is heard: it is not used. \
                     Is it another server's?",
                    bmc.url()
                )),
            ),
            Ok(_) => (true, None),
            Err(err) => (true, Some(format!("The other server's BMC: {}", error_chain(&err)))),
        };
        let wait = if words.is_some() { LOOK_AGAIN } else { LOOK_PERIOD };
        self.hub.problem(Concern::Pair, "bmc", words);
        (usable, wait)
    }

    fn peer_heard(&self) -> bool {
        let heard = self.hub.read(|state| state.peer.map(|(_, _, at_ms)| at_ms));
        heard.is_some_and(|at_ms| hardware::boot_ms().saturating_sub(at_ms) < HEARD_MS)
    }
}
