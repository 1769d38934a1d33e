// SPDX-License-Identifier: Apache-2.0
//! UDP sockets inside both tunnels. They appear when the tunnels do; a path without a socket is
//! simply not heard.

use super::check::Checker;
use agent_core::Input;
use hypervisor_glue::network::tunnel_address;
use provisioning_protocol::PROTOCOL_VERSION;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::peer::{PEER_BYTES_MAX, PEER_PORT, Path, PeerBody, PeerDatagram};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

const BIND_RETRY: Duration = Duration::from_millis(500);

/// Addresses of one path: ours and the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Where we listen.
    pub own: SocketAddr,
    /// Where the peer listens.
    pub peer: SocketAddr,
}

impl Ends {
    /// Inside the tunnel of a path.
    #[must_use]
    pub fn in_tunnel(path: Path, slot: NodeSlot) -> Self {
        let at = |slot| SocketAddr::new(IpAddr::V6(tunnel_address(path, slot)), PEER_PORT);
        Self { own: at(slot), peer: at(slot.peer()) }
    }
}

#[derive(Debug)]
struct Side {
    path: Path,
    ends: Ends,
    socket: Mutex<Option<Arc<UdpSocket>>>,
}

/// Both paths to the peer.
#[derive(Debug, Clone)]
pub struct PeerLink {
    site: SiteName,
    slot: NodeSlot,
    boot: u64,
    sides: Arc<Vec<Side>>,
}

impl PeerLink {
    /// Knows where to listen; [`PeerLink::listen`] does it.
    #[must_use]
    pub fn new(site: SiteName, slot: NodeSlot, boot: u64, ends: &[(Path, Ends)]) -> Self {
        let side = |(path, ends): &(Path, Ends)| Side {
            path: *path,
            ends: *ends,
            socket: Mutex::new(None),
        };
        Self { site, slot, boot, sides: Arc::new(ends.iter().map(side).collect()) }
    }

    /// Starts a task for each path; they end when `inputs` is closed.
    pub fn listen(&self, inputs: &mpsc::Sender<Input>) {
        for at in 0..self.sides.len() {
            let (link, inputs) = (self.clone(), inputs.clone());
            tokio::spawn(async move { link.side(at, inputs).await });
        }
    }

    async fn side(&self, at: usize, inputs: mpsc::Sender<Input>) {
        let side = &self.sides[at];
        let checker = Checker::new(self.site.clone(), self.slot);
        let socket = loop {
            match UdpSocket::bind(side.ends.own).await {
                Ok(socket) => break Arc::new(socket),
                Err(error) => {
                    tracing::debug!(path = ?side.path, %error, "no peer socket yet");
                    tokio::time::sleep(BIND_RETRY).await;
                }
            }
            if inputs.is_closed() {
                return;
            }
        };
        tracing::info!(path = ?side.path, own = %side.ends.own, "listening for the peer");
        *side.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket.clone());
        let mut buffer = vec![0; PEER_BYTES_MAX + 1];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                // ICMP errors of earlier sends show up here; they mean nothing to us.
                tokio::task::yield_now().await;
                continue;
            };
            if from.ip() != side.ends.peer.ip() {
                tracing::debug!(%from, "datagram from a stranger dropped");
                continue;
            }
            match checker.take(&buffer[..length]) {
                Ok(datagram) => {
                    let PeerDatagram { boot, seq, body, .. } = datagram;
                    let (path, body) = (side.path, Arc::new(body));
                    if inputs.send(Input::PeerHeard { path, boot, seq, body }).await.is_err() {
                        return;
                    }
                }
                Err(reason) => tracing::debug!(path = ?side.path, %reason, "datagram dropped"),
            }
        }
    }

    /// Sends on both paths; a path that cannot take it loses this one.
    pub fn send(&self, seq: u64, body: PeerBody) {
        let (site, from, boot) = (self.site.clone(), self.slot, self.boot);
        let datagram = PeerDatagram { v: PROTOCOL_VERSION, site, from, boot, seq, body };
        let bytes = serde_json::to_vec(&datagram).expect("plain data becomes JSON");
        if bytes.len() > PEER_BYTES_MAX {
            tracing::error!(bytes = bytes.len(), "peer message too long, not sent");
            return;
        }
        for side in self.sides.iter() {
            let socket = side.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let sent = socket.map(|socket| socket.try_send_to(&bytes, side.ends.peer));
            if let Some(Err(error)) = sent {
                tracing::trace!(path = ?side.path, %error, "peer message not sent");
            }
        }
    }
}

/// A body that says nothing.
#[cfg(test)]
pub(crate) fn empty_body() -> PeerBody {
    serde_json::from_value(serde_json::json!({
        "epoch": 0, "state": "BOOT", "in_sync": [], "watchdog_armed": false, "hears": [],
        "link_up": false, "disks_up_to_date": false, "running": [], "released": false,
        "witness": null, "agree": null, "solo": false, "claimed": false, "yields": false,
        "weight": 0
    }))
    .expect("fits the type")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_arrives_once_by_each_path_and_strangers_are_not_heard() {
        // All at once, or two could be the same.
        let free = [(); 4].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let [a1, a2, b1, b2] = free.map(|socket| socket.local_addr().unwrap());
        let site = SiteName::new("oslo").unwrap();
        let ends = |own1, peer1, own2, peer2| {
            [
                (Path::Cable, Ends { own: own1, peer: peer1 }),
                (Path::Lan, Ends { own: own2, peer: peer2 }),
            ]
        };
        let a = PeerLink::new(site.clone(), NodeSlot::A, 7, &ends(a1, b1, a2, b2));
        let b = PeerLink::new(site, NodeSlot::B, 8, &ends(b1, a1, b2, a2));
        let (to_a, _from_b) = mpsc::channel(8);
        let (to_b, mut from_a) = mpsc::channel(8);
        a.listen(&to_a);
        b.listen(&to_b);
        let mut paths = std::collections::BTreeSet::new();
        let mut seq = 0;
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while paths.len() < 2 {
            seq += 1;
            a.send(seq, empty_body());
            let wait = tokio::time::timeout(Duration::from_millis(100), from_a.recv());
            if let Ok(Some(Input::PeerHeard { path, boot: 7, .. })) = wait.await {
                paths.insert(path);
            }
            assert!(tokio::time::Instant::now() < until, "heard on {paths:?} only");
        }
    }
}
