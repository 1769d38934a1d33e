// SPDX-License-Identifier: Apache-2.0
//! WireGuard's view: what `wg` is told and what it answers.

use super::{
    CABLE_TUNNEL_PORT, LAN_TUNNEL_PORT, TunnelPlan, TunnelStatus, cable_address, tunnel_address,
    tunnel_interface,
};
use crate::replication::replication_address;
use provisioning_protocol::peer::Path;
use std::net::{IpAddr, SocketAddr};

/// Configuration of one tunnel, for `wg syncconf`.
pub(super) fn configuration(plan: &TunnelPlan, path: Path) -> String {
    let peer = plan.slot.peer();
    let port = port(path);
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {port}\n\n[Peer]\nPublicKey = {}\n\
         AllowedIPs = {}/128, {}/128\nPersistentKeepalive = 10\n",
        plan.keys.private,
        plan.peer_public,
        tunnel_address(path, peer),
        replication_address(peer),
    );
    let endpoint = match path {
        Path::Cable => Some(IpAddr::V4(cable_address(peer))),
        Path::Lan => plan.peer_lan,
    };
    if let Some(address) = endpoint {
        text.push_str(&format!("Endpoint = {}\n", SocketAddr::new(address, port)));
    }
    text
}

fn port(path: Path) -> u16 {
    match path {
        Path::Cable => CABLE_TUNNEL_PORT,
        Path::Lan => LAN_TUNNEL_PORT,
    }
}

/// Whether a text is a WireGuard key: base64 of 32 bytes.
pub(super) fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 44
        && bytes[43] == b'='
        && bytes[..43].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// Peers in the answer of `wg show all dump`.
pub(super) fn status(dump: &str) -> Vec<TunnelStatus> {
    dump.lines().filter_map(peer_line).collect()
}

fn peer_line(line: &str) -> Option<TunnelStatus> {
    let words: Vec<&str> = line.split('\t').collect();
    // An interface's own line has five words, a peer's nine.
    let [interface, _key, _psk, endpoint, _allowed, handshake, received, sent, _keepalive] =
        words.as_slice()
    else {
        return None;
    };
    let path = Path::BOTH.into_iter().find(|path| tunnel_interface(*path) == *interface)?;
    Some(TunnelStatus {
        path,
        endpoint: (*endpoint != "(none)").then(|| (*endpoint).to_owned()),
        handshake_at_s: handshake.parse().ok()?,
        received_bytes: received.parse().ok()?,
        sent_bytes: sent.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::TunnelKeys;
    use provisioning_protocol::ids::NodeSlot;

    fn plan(peer_lan: Option<&str>) -> TunnelPlan {
        TunnelPlan {
            slot: NodeSlot::A,
            keys: TunnelKeys { private: "SECRET".into(), public: "OWN".into() },
            peer_public: "PEER".into(),
            peer_lan: peer_lan.map(|text| text.parse().expect("valid")),
        }
    }

    #[test]
    fn both_tunnels_let_the_peers_replication_address_through() {
        for path in Path::BOTH {
            let text = configuration(&plan(None), path);
            assert!(text.contains("fd46:4f52:45ff::b/128"), "{text}");
            assert!(!text.contains("::a/128"), "own addresses are not the peer's: {text}");
        }
    }

    #[test]
    fn the_lan_tunnel_waits_for_the_peer_until_its_address_is_known() {
        let cable = configuration(&plan(None), Path::Cable);
        assert!(cable.contains("Endpoint = 169.254.77.2:51820"), "{cable}");
        assert!(!configuration(&plan(None), Path::Lan).contains("Endpoint"));
        let v6 = configuration(&plan(Some("2001:db8::1")), Path::Lan);
        assert!(v6.contains("Endpoint = [2001:db8::1]:51821"), "{v6}");
    }

    #[test]
    fn status_skips_what_is_not_a_peer_of_ours() {
        let dump = "wg-lan\tPRIV\tPUB\t51821\toff\n\
            wg-lan\tKEY\t(none)\t10.0.2.16:51821\tfd46::b/128\t1700000000\t10\t20\t10\n\
            wg9\tKEY\t(none)\t(none)\tfd46::b/128\t0\t0\t0\toff\nnonsense\n";
        let all = status(dump);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].path, Path::Lan);
        assert_eq!((all[0].handshake_at_s, all[0].sent_bytes), (1_700_000_000, 20));
    }

    #[test]
    fn keys_that_could_smuggle_configuration_are_refused() {
        assert!(is_key("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE="));
        for bad in ["", "short=", &"a".repeat(44), &format!("{}\n=", "a".repeat(42))] {
            assert!(!is_key(bad), "{bad:?}");
        }
    }
}
