// SPDX-License-Identifier: Apache-2.0
//! States in words a person on site understands.

use crate::facts::{Pair, Vm};
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;

/// The pair, as one server sees it.
#[must_use]
pub fn pair(pair: &Pair) -> String {
    match pair.state {
        PeerState::Boot => "starting, nothing decided yet".into(),
        PeerState::Pair => "HEALTHY, both servers hold every write".into(),
        PeerState::Resync => match pair.resync_percent {
            Some(percent) => format!("CATCHING UP, {percent} % copied"),
            None => "CATCHING UP, one server copies from the other".into(),
        },
        PeerState::Suspect => "FROZEN, it is being decided who carries on".into(),
        PeerState::Solo => "ALONE, without the other server".into(),
        PeerState::Loser => "STOOD DOWN, the other server carries on".into(),
        PeerState::Wait => "WAITING, may not run virtual machines yet".into(),
        PeerState::Maint => "MAINTENANCE, taken out on purpose".into(),
    }
}

/// The peer's own word for its state, in ours.
#[must_use]
pub fn peer(state: &str) -> &str {
    match state {
        "BOOT" => "starting",
        "PAIR" => "healthy",
        "RESYNC" => "catching up",
        "SUSPECT" => "FROZEN",
        "SOLO" => "carrying on alone",
        "LOSER" => "stood down",
        "WAIT" => "waiting",
        "MAINT" => "in maintenance",
        other => other,
    }
}

/// By which paths the peer is heard: first the cable, then the LAN.
#[must_use]
pub fn heard(heard: [bool; 2]) -> &'static str {
    match heard {
        [true, true] => "heard over cable and LAN",
        [true, false] => "heard over the cable ONLY",
        [false, true] => "heard over the LAN ONLY",
        [false, false] => "NOT HEARD",
    }
}

/// A VM on this server. The words in capitals are those that need a look.
#[must_use]
pub fn vm(phase: VmPhase) -> &'static str {
    match phase {
        VmPhase::Fetching => "fetching template",
        VmPhase::Preparing => "making disks",
        VmPhase::Standby => "standby",
        VmPhase::Starting => "starting",
        VmPhase::Running => "running",
        VmPhase::Healthy => "running, healthy",
        VmPhase::Frozen => "FROZEN",
        VmPhase::Failed => "FAILED",
    }
}

/// Whether a VM's vCPUs are on this server.
#[must_use]
pub fn is_here(vm: &Vm) -> bool {
    matches!(vm.phase, VmPhase::Running | VmPhase::Healthy | VmPhase::Frozen)
}

/// "server A", or "the other server" where the slot is not known yet.
#[must_use]
pub fn other(slot: Option<NodeSlot>) -> String {
    slot.map_or_else(|| "the other server".into(), |slot| format!("server {}", slot.peer()))
}

/// One or many.
#[must_use]
pub fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// With a capital at its start.
#[must_use]
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}
