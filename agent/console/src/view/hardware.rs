// SPDX-License-Identifier: Apache-2.0
//! Page 3: disks and network cards, as the machine itself reports them.

use super::Row;
use crate::facts::{Facts, Nic};
use crate::text::{size, wrap};

/// The whole page.
pub(super) fn rows(facts: &Facts, width: usize) -> Vec<Row> {
    let mut rows = vec![Row::blank(), Row::bold(" Network cards, in the order of their slots")];
    for (index, nic) in facts.nics.iter().enumerate() {
        rows.extend(network(index, nic));
    }
    if facts.nics.is_empty() {
        rows.push(Row::plain(" None found."));
    }
    rows.extend([Row::blank(), Row::bold(" Disks")]);
    for disk in &facts.disks {
        let kind = if disk.removable { "removable" } else { "" };
        let size = size(disk.bytes);
        rows.push(Row::plain(format!(" {:<10}{size:>10}  {} {kind}", disk.name, disk.model)));
    }
    if facts.disks.is_empty() {
        rows.push(Row::plain(" None found."));
    }
    rows.extend([Row::blank(), Row::bold(" What became of the data disks")]);
    let said = facts.status().map(|status| status.disks.as_slice()).unwrap_or_default();
    for line in said {
        let lines = wrap(line.as_str(), width.saturating_sub(3), 3);
        rows.extend(lines.iter().map(|line| Row::plain(format!(" {line}"))));
    }
    if said.is_empty() {
        rows.push(Row::plain(" The agent has not said."));
    }
    rows
}

fn network(index: usize, nic: &Nic) -> [Row; 2] {
    let role = match index {
        0 => "LAN",
        1 => "cable",
        _ => "unused",
    };
    let link = match (nic.link, nic.speed) {
        (false, _) => "NO LINK".to_owned(),
        (true, Some(speed)) => format!("link, {speed} Mbit/s"),
        (true, None) => "link".to_owned(),
    };
    let addresses: Vec<&str> = nic.addresses.iter().map(|a| a.as_str()).collect();
    let addresses = if addresses.is_empty() { "no address".into() } else { addresses.join("  ") };
    [
        Row::plain(format!(" {:<10}{role:<8}{link:<20}{}  {}", nic.name, nic.mac, nic.bus)),
        Row::plain(format!("           {addresses}")),
    ]
}
