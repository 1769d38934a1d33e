// SPDX-License-Identifier: Apache-2.0
//! Live moves: memory goes from one QEMU to another, which fails now and then, and what was lost
//! between two steps is lost. Memory is a number that changes with all the VM does: a VM that goes on
//! with an older one would damage its own disk.

use crate::opts::Mutation;
use crate::world::{Shell, World, slot};
use agent_core::{Input, VmRun};
use provisioning_protocol::ids::VmName;

/// Of a thousand streams so many break by themselves.
const BREAKS: u64 = 100;

/// A QEMU that waits for memory, or has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    ticket: u64,
    memory: Option<u64>,
}

/// A stream under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hand {
    ticket: u64,
    /// It is over: the vCPUs stand still, and QEMU is about to be killed.
    over: bool,
}

impl World {
    fn soon(&mut self, node: usize, low: u64, high: u64, what: Shell) {
        let delay = self.orders.range(low, high);
        self.later_at(node, delay, what);
    }

    pub fn receive_vm(&mut self, node: usize, vm: &VmName) {
        let vm = self.vm_index(vm);
        self.nodes[node].incoming[vm] = None;
        self.soon(node, 50, 1_500, Shell::Receives { vm });
    }

    pub fn discard_vm(&mut self, node: usize, vm: &VmName) {
        let vm = self.vm_index(vm);
        if !self.mutated(Mutation::StaleMemory) {
            self.nodes[node].incoming[vm] = None;
        }
    }

    /// Loaded; sometimes it cannot be.
    pub fn receives(&mut self, node: usize, vm: usize) {
        let ticket = (!self.orders.chance(50)).then(|| self.orders.next());
        self.nodes[node].incoming[vm] = ticket.map(|ticket| Incoming { ticket, memory: None });
        self.tell_vm(node, vm, |vm| Input::VmReceives { vm, ticket });
    }

    pub fn hand_vm(&mut self, node: usize, vm: &VmName, ticket: u64) {
        let vm = self.vm_index(vm);
        if self.mutated(Mutation::FalseStop) {
            return self.tell_vm(node, vm, |vm| Input::VmHanded { vm, ticket, whole: true });
        }
        self.nodes[node].hands[vm] = Some(Hand { ticket, over: false });
        self.soon(node, 300, 3_000, Shell::Streamed { vm, ticket });
    }

    pub fn keep_vm(&mut self, node: usize, vm: &VmName) {
        let vm = self.vm_index(vm);
        self.soon(node, 1, 200, Shell::Kept { vm });
    }

    fn hand(&self, node: usize, vm: usize, ticket: u64) -> Option<Hand> {
        self.nodes[node].hands[vm].filter(|hand| hand.ticket == ticket)
    }

    /// The last of the memory is to go over: the vCPUs stop for it, once no write is open.
    pub fn streamed(&mut self, node: usize, vm: usize, ticket: u64) {
        if self.hand(node, vm, ticket).is_none() {
            return;
        }
        if self.nodes[node].vols.get(vm).is_some_and(|vol| vol.waiting.is_some()) {
            return self.soon(node, 20, 60, Shell::Streamed { vm, ticket });
        }
        let there = 1 - node;
        let reached = self.carries(self.nodes[node].route, node)
            && self.carries(self.nodes[there].route, there)
            && self.nodes[there].core.is_some();
        let waits = |it: &Incoming| it.ticket == ticket && it.memory.is_none();
        let waits = self.nodes[there].incoming[vm].as_ref().is_some_and(waits);
        let runs = self.nodes[node].runs[vm] == VmRun::Running;
        if !(reached && waits && runs) || self.orders.chance(BREAKS) {
            return self.kept(node, vm);
        }
        let memory = Some(self.memory[vm]);
        self.nodes[there].incoming[vm] = Some(Incoming { ticket, memory });
        self.nodes[node].runs[vm] = VmRun::Paused;
        self.nodes[node].hands[vm] = Some(Hand { ticket, over: true });
        self.soon(node, 10, 300, Shell::Handed { vm, ticket });
    }

    /// QEMU is killed, and the other one vouched for.
    pub fn handed(&mut self, node: usize, vm: usize, ticket: u64) {
        if self.hand(node, vm, ticket).is_none_or(|hand| !hand.over) {
            return;
        }
        // Called off in the last moment.
        if self.orders.chance(BREAKS) {
            return self.kept(node, vm);
        }
        self.nodes[node].hands[vm] = None;
        let whole = self.nodes[node].runs[vm] == VmRun::Paused;
        if whole {
            self.set_run(node, vm, VmRun::Stopped);
        }
        self.tell_vm(node, vm, |vm| Input::VmHanded { vm, ticket, whole });
    }

    /// The stream broke or was called off: the VM goes on here.
    pub fn kept(&mut self, node: usize, vm: usize) {
        let Some(hand) = self.nodes[node].hands[vm].take() else { return };
        if hand.over && self.nodes[node].runs[vm] == VmRun::Paused {
            self.set_run(node, vm, VmRun::Running);
        }
        let ticket = hand.ticket;
        self.tell_vm(node, vm, |vm| Input::VmHanded { vm, ticket, whole: false });
    }

    /// The VM starts here: with which memory?
    pub fn check_memory(&mut self, node: usize, vm: usize, resume: Option<u64>) {
        let incoming = self.nodes[node].incoming[vm].take();
        let any = self.mutated(Mutation::StaleMemory);
        let good = |it: &Incoming| any || resume == Some(it.ticket);
        let Some(memory) = incoming.filter(good).and_then(|it| it.memory) else { return };
        self.stats.live += 1;
        if memory != self.memory[vm] {
            let text = format!("I7: {} goes on with old memory on {}", self.vms[vm], slot(node));
            self.fail(text);
        }
    }

    /// What an agent or a server knew of streams is gone.
    pub fn forget_streams(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        here.incoming.fill(None);
        here.hands.fill(None);
    }
}
