// SPDX-License-Identifier: Apache-2.0
//! A VM's place on the LAN: a server takes it off while its writes hang, and must put it back when
//! they are acknowledged again, not when the volumes are equal.

use crate::opts::Mutation;
use crate::world::{KERNEL_MS, Node, World, slot};
use agent_core::VmRun;

/// A VM that could serve may be off the LAN for so long.
const SHUT_OUT_MS_MAX: u64 = 5_000;

/// Where one VM of one server stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tap {
    down: bool,
    /// How long the VM could have served without it.
    shut_out_ms: u64,
}

impl World {
    pub fn set_tap(&mut self, node: usize, vm: usize, up: bool) {
        if up && self.mutated(Mutation::TapStaysDown) {
            return;
        }
        self.nodes[node].taps[vm].down = !up;
    }

    /// Liveness of what is neither lost nor frozen, a few times a second.
    pub fn check_taps(&mut self, node: usize) {
        for vm in 0..self.vms.len() {
            let here = &mut self.nodes[node];
            let shut_out = here.serves(vm) && here.taps[vm].down;
            let tap = &mut here.taps[vm];
            tap.shut_out_ms = if shut_out { tap.shut_out_ms + KERNEL_MS } else { 0 };
            if tap.shut_out_ms > SHUT_OUT_MS_MAX {
                let text = format!(
                    "liveness: {} runs on {}, which acknowledges its writes and keeps it off the LAN",
                    self.vms[vm],
                    slot(node)
                );
                return self.fail(text);
            }
        }
    }
}

impl Node {
    /// Whether an agent that works knows of a VM here that runs, and of volumes that are connected.
    fn serves(&self, vm: usize) -> bool {
        let agent = self.alive() && self.core.is_some() && self.backlog.is_none();
        let connected = self.told_link.is_some_and(|link| link.connected && !link.frozen);
        agent && connected && self.runs[vm] == VmRun::Running
    }
}
