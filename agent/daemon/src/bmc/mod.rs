// SPDX-License-Identifier: Apache-2.0
//! The other server's BMC, by Redfish: power off with a double look, power on.
//!
//! A BMC is a small computer on the LAN whose software nobody updates: only the one certificate that
//! was pinned is believed, every answer is bounded in size and time, nothing it says leads anywhere
//! else, and only "Off" read twice counts as off.

pub mod redfish;
pub mod tls;
pub mod watch;

use async_trait::async_trait;

/// The other server's power, real or not.
#[async_trait]
pub trait PowerPort: Send + Sync {
    /// Switches it off; true once "Off" was read twice. Ends within 10 s. To drop it is to stop it.
    async fn off(&self) -> bool;
    /// Switches it on.
    async fn on(&self);
}

/// No BMC: nothing is ever confirmed.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBmc;

#[async_trait]
impl PowerPort for NoBmc {
    async fn off(&self) -> bool {
        false
    }
    async fn on(&self) {}
}
