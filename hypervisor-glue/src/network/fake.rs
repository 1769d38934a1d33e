// SPDX-License-Identifier: Apache-2.0
//! A network in memory, for tests of what uses it.

use super::{Network, Nic, NicRoles, TunnelKeys, TunnelPlan, TunnelStatus};
use crate::error::Result;
use async_trait::async_trait;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::Path;
use std::net::IpAddr;
use std::path::Path as FsPath;
use std::sync::{Arc, Mutex, MutexGuard};

/// [`Network`] in memory.
#[derive(Clone, Default)]
pub struct FakeNetwork {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    lan: Vec<IpAddr>,
    path: Option<Path>,
    plan: Option<TunnelPlan>,
    status: Vec<TunnelStatus>,
}

impl FakeNetwork {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake's state")
    }

    /// Sets own LAN addresses.
    pub fn set_lan_addresses(&self, addresses: Vec<IpAddr>) {
        self.state().lan = addresses;
    }

    /// Sets what the tunnels tell.
    pub fn set_tunnel_status(&self, status: Vec<TunnelStatus>) {
        self.state().status = status;
    }

    /// The last plan the tunnels were brought to.
    #[must_use]
    pub fn plan(&self) -> Option<TunnelPlan> {
        self.state().plan.clone()
    }
}

#[async_trait]
impl Network for FakeNetwork {
    async fn roles(&self) -> Result<NicRoles> {
        let nic = |name: &str, last: u8| Nic {
            name: name.to_owned(),
            mac: format!("52:54:00:00:00:{last:02x}"),
            bus_address: format!("0000:00:{last:02x}.0"),
            carrier: true,
        };
        Ok(NicRoles { lan: Some(nic("fake0", 1)), cable: Some(nic("fake1", 2)), spare: Vec::new() })
    }

    async fn configure(&self, _slot: Option<NodeSlot>) -> Result<NicRoles> {
        self.roles().await
    }

    async fn lan_addresses(&self) -> Result<Vec<IpAddr>> {
        Ok(self.state().lan.clone())
    }

    async fn tunnel_keys(&self, _file: &FsPath) -> Result<TunnelKeys> {
        let key = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=".to_owned();
        Ok(TunnelKeys { private: key.clone(), public: key })
    }

    async fn tunnels(&self, plan: &TunnelPlan) -> Result<()> {
        self.state().plan = Some(plan.clone());
        Ok(())
    }

    async fn route_replication(&self, _slot: NodeSlot, path: Path) -> Result<()> {
        self.state().path = Some(path);
        Ok(())
    }

    async fn replication_path(&self, _slot: NodeSlot) -> Result<Option<Path>> {
        Ok(self.state().path)
    }

    async fn tunnel_status(&self) -> Result<Vec<TunnelStatus>> {
        Ok(self.state().status.clone())
    }
}
