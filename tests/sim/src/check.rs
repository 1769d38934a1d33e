// SPDX-License-Identifier: Apache-2.0
//! The promises (ha.md 5.4), checked from outside: what is on the disks, what the guests were
//! told, where vCPUs run. A failed check ends the run.

use crate::world::{World, slot};
use agent_core::{DurableState, Tie, VmRun};

/// Whether `log` holds every id of `acked`; both rise.
#[must_use]
pub fn holds_all(log: &[u32], acked: &[u32]) -> bool {
    let mut log = log.iter();
    acked.iter().all(|id| log.any(|have| have == id))
}

impl World {
    /// A state reaches the disk: I1 and I5 are about what is there.
    pub fn store(&mut self, node: usize, state: DurableState) {
        let old = self.nodes[node].disk.take();
        if let Some(old) = &old
            && state.epoch < old.epoch
        {
            self.fail(format!(
                "I5: {} went from epoch {} to {}",
                slot(node),
                old.epoch,
                state.epoch
            ));
        }
        let other = self.nodes[1 - node].disk.as_ref();
        let late = other.is_some_and(|other| other.epoch > state.epoch);
        if state.solo && other.is_some_and(|other| other.solo) {
            let asks = if self.contacts_would_ask() { " (contacts would have told)" } else { "" };
            self.fail(format!("I1: both alone, {} at epoch {}{asks}", slot(node), state.epoch));
        }
        let newly_alone = state.solo && old.as_ref().is_none_or(|old| !old.solo);
        // A state older than what the other has moved on to gives no right any more.
        let newly_paired = state.paired() && !late && old.as_ref().is_none_or(|old| !old.paired());
        self.stats.solos += u64::from(newly_alone);
        // Notes change no right: what is older in earnest is of an earlier epoch.
        if old.as_ref().is_none_or(|old| old.epoch != state.epoch) {
            self.nodes[node].older_disk = old;
        }
        self.nodes[node].disk = Some(state);
        if newly_paired {
            self.check_member(node);
        }
    }

    /// I3: who is taken into the set holds every acknowledged write.
    fn check_member(&mut self, node: usize) {
        for vm in 0..self.nodes[node].vols.len() {
            if !holds_all(&self.nodes[node].vols[vm].log, &self.acked[vm]) {
                let text =
                    format!("I3: {} joins without all writes of {}", slot(node), self.vms[vm]);
                self.fail(text);
            }
        }
    }

    fn alone(&self, node: usize) -> bool {
        self.nodes[node].disk.as_ref().is_some_and(|disk| disk.solo)
    }

    /// I2: the kernel is told to go on only with a grant on disk.
    pub fn check_grant(&mut self, node: usize, code: u8) {
        if !self.alone(node) {
            self.fail(format!("I2: {} answered {code} without a durable grant", slot(node)));
        }
    }

    /// I2, second half: primary without the peer.
    pub fn check_primary_alone(&mut self, node: usize) {
        if !self.alone(node) {
            self.fail(format!("I2: {} became primary alone without a grant", slot(node)));
        }
    }

    /// I3: an acknowledged write is on every server that counts as in sync: in the view of the
    /// one that acknowledged it, less a peer that has given its vote up.
    pub fn check_ack(&mut self, node: usize, vm: usize, id: u32) {
        let Some(disk) = &self.nodes[node].disk else {
            return self.fail(format!("I3: {} acknowledged a write without state", slot(node)));
        };
        let counts = [0, 1].map(|member| (member, disk.in_sync.contains(&slot(member))));
        for (member, counts) in counts {
            let votes = self.nodes[member].disk.as_ref().is_some_and(DurableState::votes);
            if !votes || !counts {
                continue;
            }
            if self.nodes[member].vols[vm].log.last() != Some(&id) {
                let text = format!(
                    "I3: {} acknowledged write {id} of {}, which {} does not hold",
                    slot(node),
                    self.vms[vm],
                    slot(member)
                );
                self.fail(text);
            }
        }
    }

    /// I4: vCPUs of a VM run on one server at most.
    pub fn check_vcpus(&mut self, vm: usize) {
        let runs =
            |node: usize| self.nodes[node].alive() && self.nodes[node].runs[vm] == VmRun::Running;
        if runs(0) && runs(1) {
            let text = format!("I4: vCPUs of {} run on both servers", self.vms[vm]);
            self.fail(text);
        }
    }

    /// Whether both servers are a healthy pair and every VM runs once.
    pub fn healthy(&self) -> bool {
        use provisioning_protocol::peer::PeerState;
        let wanted = if self.local.fitted { Tie::Local } else { Tie::Hq };
        let pair = self.nodes.iter().all(|node| {
            node.alive()
                && !node.doomed()
                && node.core.as_ref().is_some_and(|core| {
                    core.status().state == PeerState::Pair && core.durable().tie == wanted
                })
        });
        pair && self.volumes_made && (0..self.vms.len()).all(|vm| self.running(vm) == 1)
    }

    /// On how many servers a VM runs.
    pub fn running(&self, vm: usize) -> usize {
        let here = |node: &&crate::world::Node| node.alive() && node.runs[vm] == VmRun::Running;
        self.nodes.iter().filter(here).count()
    }
}
