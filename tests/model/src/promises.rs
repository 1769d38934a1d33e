// SPDX-License-Identifier: Apache-2.0
//! The promises (ha.md 5.4), looked at from outside the cores: what is on the disks, what the
//! guests were told, where vCPUs run.

use crate::site::{Site, slot};
use agent_core::{DurableState, Tie, VmRun};
use tests_sim::holds_all;

/// Names of the promises: the invariants, a core that stops itself, and liveness.
pub const PROMISES: [&str; 8] = ["I1", "I2", "I3", "I4", "I5", "I6", "core", "liveness"];

/// Which promises were broken on the way to a state, and in words the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Broken {
    flags: u8,
}

impl Broken {
    pub fn has(&self, promise: &str) -> bool {
        PROMISES
            .iter()
            .position(|name| *name == promise)
            .is_some_and(|at| self.flags >> at & 1 == 1)
    }

    pub fn any(&self) -> bool {
        self.flags != 0
    }
}

impl Site {
    pub fn broke(&mut self, promise: &'static str, text: String) {
        let at = PROMISES.iter().position(|name| *name == promise).expect("a promise's name");
        self.broken.flags |= 1 << at;
        self.note(|_| format!("!! {promise}: {text}"));
    }

    /// A state reaches the disk: I1 and I5 are about what is there.
    pub fn store(&mut self, node: usize, state: DurableState) {
        let old = self.nodes[node].disk.take();
        if old.as_ref().is_some_and(|old| state.epoch < old.epoch) {
            self.broke("I5", format!("{} went back to epoch {}", slot(node), state.epoch));
        }
        let other = self.nodes[1 - node].disk.as_ref();
        if state.solo && other.is_some_and(|other| other.solo) {
            self.broke("I1", format!("both alone, {} at epoch {}", slot(node), state.epoch));
        }
        let other = self.nodes[1 - node].disk.as_ref();
        let late = other.is_some_and(|other| other.epoch > state.epoch);
        let joins = state.paired() && !late && old.as_ref().is_none_or(|old| !old.paired());
        self.nodes[node].older_disk = old;
        self.nodes[node].disk = Some(state);
        let lacks = |site: &Self| {
            let vol = site.nodes[node].vol.as_ref();
            vol.is_some_and(|vol| !holds_all(&vol.log, &site.acked))
        };
        if joins && lacks(self) {
            self.broke("I3", format!("{} joins without all writes", slot(node)));
        }
    }

    fn alone(&self, node: usize) -> bool {
        self.nodes[node].disk.as_ref().is_some_and(|disk| disk.solo)
    }

    /// I2: the kernel goes on without the peer only with a grant on disk.
    pub fn check_grant(&mut self, node: usize, what: &str) {
        if !self.alone(node) {
            self.broke("I2", format!("{} {what} without a durable grant", slot(node)));
        }
    }

    /// I3: an acknowledged write is on every server that counts as in sync: in the view of the one
    /// that acknowledged it, less a peer that has given its vote up.
    pub fn check_ack(&mut self, node: usize, id: u32) {
        let in_sync = |member: usize| {
            let votes = self.nodes[member].disk.as_ref().is_some_and(DurableState::votes);
            let disk = self.nodes[node].disk.as_ref();
            votes && disk.is_some_and(|disk| disk.in_sync.contains(&slot(member)))
        };
        let lacks = |member: &usize| {
            let vol = self.nodes[*member].vol.as_ref();
            vol.is_none_or(|vol| vol.log.last() != Some(&id))
        };
        if let Some(member) = (0..2).filter(|member| in_sync(*member)).find(lacks) {
            let text = format!("{} acknowledged what {} lacks", slot(node), slot(member));
            self.broke("I3", text);
        }
    }

    /// I3 again: a VM is started only on all it was promised.
    pub fn check_start(&mut self, node: usize) {
        let vol = self.nodes[node].vol.as_ref();
        if vol.is_none_or(|vol| !holds_all(&vol.log, &self.acked)) {
            self.broke("I3", format!("started on {} without all its writes", slot(node)));
        }
    }

    /// I4: vCPUs run on one server at most.
    pub fn check_vcpus(&mut self) {
        if self.nodes.iter().all(|node| node.up && node.run == VmRun::Running) {
            self.broke("I4", "vCPUs run on both servers".into());
        }
    }

    /// I5: no server acts on an epoch older than the one it was told to be on its disk.
    pub fn check_epoch(&mut self, node: usize) {
        let here = &self.nodes[node];
        if here.core.as_ref().is_some_and(|core| core.durable().epoch < here.confirmed) {
            self.broke("I5", format!("{} acts on an old epoch", slot(node)));
        }
    }

    /// I6: nothing that was acknowledged is overwritten.
    pub fn check_overwrite(&mut self, source: usize, target: usize) {
        let log = |node: usize| self.nodes[node].vol.as_ref().map(|vol| &vol.log);
        let (Some(kept), Some(lost)) = (log(source), log(target)) else { return };
        if self.acked.iter().any(|id| lost.contains(id) && !kept.contains(id)) {
            self.broke("I6", format!("resync discards what {} acknowledged", slot(target)));
        }
    }

    /// A healthy pair with its tie-break there, and the VM runs once.
    pub fn healthy(&self, tie: Tie) -> bool {
        use provisioning_protocol::peer::PeerState;
        let pair = self.nodes.iter().all(|node| {
            let paired = node.core.as_ref().is_some_and(|core| {
                core.status().state == PeerState::Pair && core.durable().tie == tie
            });
            node.up && paired && node.connected()
        });
        pair && self.runs() == 1
    }

    /// On how many servers the VM runs.
    pub fn runs(&self) -> usize {
        self.nodes.iter().filter(|node| node.up && node.run == VmRun::Running).count()
    }
}
