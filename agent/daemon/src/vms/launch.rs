// SPDX-License-Identifier: Apache-2.0
//! A VM as QEMU is to be started: from its template, its volumes and its site's variables.

use super::registry::VmEntry;
use hypervisor_glue::vms::{Accel, Seed, VmDisk, VmLaunch};
use provisioning_protocol::ids::SiteName;
use std::net::IpAddr;

/// Variables the agent itself understands.
const ADDRESS: &str = "ADDRESS";
const PREFIX: &str = "PREFIX";
const GATEWAY: &str = "GATEWAY";
const DNS: &str = "DNS";
/// Serial numbers of virtio disks are at most this long.
const SERIAL_BYTES_MAX: usize = 20;

/// What to start.
#[must_use]
pub fn launch(entry: &VmEntry, site: &SiteName, accel: Accel) -> VmLaunch {
    let name = &entry.assignment.name;
    let disk = |replica: &hypervisor_glue::replication::ReplicaSpec| VmDisk {
        path: replica.device(),
        serial: replica.disk.as_str().chars().take(SERIAL_BYTES_MAX).collect(),
    };
    VmLaunch {
        name: name.clone(),
        site: site.clone(),
        index: entry.assignment.index,
        firmware: entry.vm.firmware,
        cpu: entry.vm.cpu,
        cpus: entry.vm.cpus,
        memory_mib: entry.vm.memory_mib,
        disks: entry.replicas.iter().map(disk).collect(),
        nics: entry.vm.nics,
        seed: Seed {
            instance_id: format!("{site}-{name}-{}", entry.template),
            hostname: name.to_string(),
            variables: entry.assignment.variables.clone(),
            network_config: network_config(entry),
        },
        accel,
    }
}

/// The VM's address on the LAN, if a variable gives one (`10.0.0.5` or `10.0.0.5/24`).
#[must_use]
pub fn address(entry: &VmEntry) -> Option<IpAddr> {
    let text = entry.assignment.variables.get(ADDRESS)?;
    text.split('/').next()?.trim().parse().ok()
}

/// A cloud-init network document, if the VM has a static address.
fn network_config(entry: &VmEntry) -> Option<String> {
    let variables = &entry.assignment.variables;
    let address = address(entry)?;
    let ip = |name: &str| variables.get(name).and_then(|text| text.trim().parse::<IpAddr>().ok());
    let inline = variables.get(ADDRESS).and_then(|text| text.split_once('/')).map(|(_, p)| p);
    let prefix: u8 = inline
        .or(variables.get(PREFIX).map(String::as_str))
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(24);
    let mut text = format!(
        "version: 2\nethernets:\n  lan:\n    match: {{name: \"e*\"}}\n    addresses: [\"{address}/{prefix}\"]\n"
    );
    if let Some(gateway) = ip(GATEWAY) {
        let net = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        text.push_str(&format!("    routes: [{{to: \"{net}\", via: \"{gateway}\"}}]\n"));
    }
    if let Some(dns) = ip(DNS) {
        text.push_str(&format!("    nameservers: {{addresses: [\"{dns}\"]}}\n"));
    }
    Some(text)
}
