// SPDX-License-Identifier: Apache-2.0
//! The server's network: NIC roles, the VM bridge, encrypted tunnels to the peer and the route
//! that chooses between them.

mod fake;
mod files;
mod host;
mod nics;
mod tunnel;

pub use fake::FakeNetwork;
pub use host::HostNetwork;

use crate::error::Result;
use async_trait::async_trait;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::Path;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path as FsPath;

/// Bridge of the LAN NIC and all VM taps.
pub const BRIDGE: &str = "br-lan";
/// UDP port of the tunnel over the cable.
pub const CABLE_TUNNEL_PORT: u16 = 51820;
/// UDP port of the tunnel over the LAN.
pub const LAN_TUNNEL_PORT: u16 = 51821;

/// A physical NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Kernel name.
    pub name: String,
    /// MAC address in lower-case hex with colons.
    pub mac: String,
    /// Bus address that orders NICs (PCI address).
    pub bus_address: String,
    /// Whether a link is seen.
    pub carrier: bool,
}

/// Which NIC is what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NicRoles {
    /// First by bus address.
    pub lan: Option<Nic>,
    /// Second.
    pub cable: Option<Nic>,
    /// The rest: not used.
    pub spare: Vec<Nic>,
}

/// A tunnel key pair, base64 as WireGuard writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct TunnelKeys {
    /// Never leaves the server.
    pub private: String,
    /// Told to HQ and by it to the peer.
    pub public: String,
}

impl std::fmt::Debug for TunnelKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelKeys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// What the tunnels need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Own place.
    pub slot: NodeSlot,
    /// Own keys.
    pub keys: TunnelKeys,
    /// The peer's public key.
    pub peer_public: String,
    /// The peer's LAN address, as HQ tells; `None` while it is not known.
    pub peer_lan: Option<IpAddr>,
}

/// A tunnel as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// Which one.
    pub path: Path,
    /// Where the peer was last heard.
    pub endpoint: Option<String>,
    /// Seconds since 1970 of the last handshake, 0 if there was none.
    pub handshake_at_s: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

/// Interface of a path's tunnel.
#[must_use]
pub fn tunnel_interface(path: Path) -> &'static str {
    match path {
        Path::Cable => "wg-cable",
        Path::Lan => "wg-lan",
    }
}

/// A server's address inside a path's tunnel.
#[must_use]
pub fn tunnel_address(path: Path, slot: NodeSlot) -> Ipv6Addr {
    let net = match path {
        Path::Cable => 0x4501,
        Path::Lan => 0x4502,
    };
    Ipv6Addr::new(0xfd46, 0x4f52, net, 0, 0, 0, 0, slot_number(slot))
}

/// A server's address on the cable.
#[must_use]
pub fn cable_address(slot: NodeSlot) -> Ipv4Addr {
    match slot {
        NodeSlot::A => Ipv4Addr::new(169, 254, 77, 1),
        NodeSlot::B => Ipv4Addr::new(169, 254, 77, 2),
    }
}

fn slot_number(slot: NodeSlot) -> u16 {
    match slot {
        NodeSlot::A => 0xa,
        NodeSlot::B => 0xb,
    }
}

/// The server's network.
#[async_trait]
pub trait Network: Send + Sync {
    /// Physical NICs in role order.
    async fn roles(&self) -> Result<NicRoles>;

    /// Writes networkd's files for NICs and bridge (and the cable's address once the slot is
    /// known) and makes networkd read them. Safe to repeat; unchanged files cause no reload.
    async fn configure(&self, slot: Option<NodeSlot>) -> Result<NicRoles>;

    /// Own addresses on the LAN, without link-local ones.
    async fn lan_addresses(&self) -> Result<Vec<IpAddr>>;

    /// The key pair kept in this file, made if there is none (mode 0600).
    async fn tunnel_keys(&self, file: &FsPath) -> Result<TunnelKeys>;

    /// Brings tunnels and the replication address to this plan. Safe to repeat.
    async fn tunnels(&self, plan: &TunnelPlan) -> Result<()>;

    /// Sends replication to the peer over this path from now on.
    async fn route_replication(&self, slot: NodeSlot, path: Path) -> Result<()>;

    /// The path replication takes now.
    async fn replication_path(&self, slot: NodeSlot) -> Result<Option<Path>>;

    /// Both tunnels, as far as they exist.
    async fn tunnel_status(&self) -> Result<Vec<TunnelStatus>>;
}
