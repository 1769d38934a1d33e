// SPDX-License-Identifier: Apache-2.0
//! What systemd-networkd is told. Interfaces that no file names (taps, tunnels) are not touched.

use super::{BRIDGE, NicRoles, cable_address};
use provisioning_protocol::ids::NodeSlot;

const HEAD: &str = "# Written by forecourt-agent.\n";

/// File names and contents, for these roles.
pub(super) fn networkd_files(roles: &NicRoles, slot: Option<NodeSlot>) -> Vec<(String, String)> {
    let mut files = Vec::new();
    if let Some(lan) = &roles.lan {
        files.push((
            "10-forecourt-bridge.netdev".to_owned(),
            format!(
                "{HEAD}[NetDev]\nName={BRIDGE}\nKind=bridge\nMACAddress={}\n\n[Bridge]\nSTP=no\n",
                lan.mac
            ),
        ));
        files.push((
            "10-forecourt-lan.network".to_owned(),
            format!(
                "{HEAD}[Match]\nName={}\n\n[Network]\nBridge={BRIDGE}\nLinkLocalAddressing=no\n\
                 IPv6AcceptRA=no\n",
                lan.name
            ),
        ));
        files.push((
            "20-forecourt-bridge.network".to_owned(),
            format!(
                "{HEAD}[Match]\nName={BRIDGE}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=yes\n\
                 LinkLocalAddressing=ipv6\nIPv6AcceptRA=yes\nConfigureWithoutCarrier=yes\n\
                 KeepConfiguration=dhcp-on-stop\n\n[DHCPv4]\nClientIdentifier=mac\n\
                 RouteMetric=100\n"
            ),
        ));
    }
    if let Some(cable) = &roles.cable {
        let address =
            slot.map(|slot| format!("Address={}/30\n", cable_address(slot))).unwrap_or_default();
        files.push((
            "30-forecourt-cable.network".to_owned(),
            format!(
                "{HEAD}[Match]\nName={}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=no\n\
                 LinkLocalAddressing=ipv6\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n{address}",
                cable.name
            ),
        ));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Nic;

    fn nic(name: &str) -> Option<Nic> {
        Some(Nic {
            name: name.to_owned(),
            mac: "52:54:00:00:00:01".to_owned(),
            bus_address: String::new(),
            carrier: true,
        })
    }

    #[test]
    fn the_bridge_takes_the_mac_of_the_lan_nic() {
        let roles = NicRoles { lan: nic("eth0"), cable: None, spare: Vec::new() };
        let files = networkd_files(&roles, None);
        assert!(files[0].1.contains("MACAddress=52:54:00:00:00:01"), "{files:?}");
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn the_cable_has_an_address_only_with_a_slot() {
        let roles = NicRoles { lan: None, cable: nic("eth1"), spare: Vec::new() };
        assert!(!networkd_files(&roles, None)[0].1.contains("Address="));
        let b = networkd_files(&roles, Some(NodeSlot::B));
        assert!(b[0].1.contains("Address=169.254.77.2/30"), "{b:?}");
    }
}
