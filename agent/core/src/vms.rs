// SPDX-License-Identifier: Apache-2.0
//! The VMs of the site as this server sees them, and what is done with each (rules R6, R11).

use crate::authority::Authority;
use crate::effect::Effect;
use crate::input::{DesiredVm, VmRun};
use crate::state::Millis;
use crate::{Core, Mode};
use provisioning_protocol::ids::{NodeSlot, VmName};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a VM's volumes are primary here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Secondary,
    Promoting,
    Primary,
    Demoting,
}

/// What a QEMU without volumes was loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Load {
    /// To boot the VM.
    Boot,
    /// To take its memory from the other server.
    Receive,
}

/// One VM.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Vm {
    desired: Option<DesiredVm>,
    ready: bool,
    run: VmRun,
    role: Role,
    starting: bool,
    /// Whether it is on the LAN; not known of a VM that an earlier run of the agent left.
    on_lan: Option<bool>,
    /// Its QEMU is loaded, or is being, without volumes and with vCPUs stopped.
    prepared: Option<Load>,
    /// When the last order was given that still waits for its effect.
    ordered_at: Option<Millis>,
    /// After a failure: not before this.
    not_before: Millis,
}

impl Vm {
    fn new() -> Self {
        Self {
            desired: None,
            ready: false,
            run: VmRun::Stopped,
            role: Role::Secondary,
            starting: false,
            on_lan: Some(true),
            prepared: None,
            ordered_at: None,
            not_before: Millis(0),
        }
    }

    /// Whether a QEMU is here, or may appear at any moment.
    pub fn alive(&self) -> bool {
        self.starting || matches!(self.run, VmRun::Running | VmRun::Paused)
    }

    /// Whether vCPUs run here, or may at any moment.
    pub fn runs(&self) -> bool {
        self.starting || self.run == VmRun::Running
    }

    /// Whether anything of it is left here that must go before the peer may have it.
    pub fn here(&self) -> bool {
        self.alive() || self.role != Role::Secondary
    }

    /// Whether it can run here: it is wanted, and its volumes are whole on both servers.
    pub fn startable(&self) -> bool {
        self.desired.is_some() && self.ready
    }

    pub fn ready(&self) -> bool {
        self.ready
    }

    /// Whether a QEMU here waits for its memory, or will.
    pub fn receiving(&self) -> bool {
        self.prepared == Some(Load::Receive)
    }

    pub fn wish(&self) -> Option<&DesiredVm> {
        self.desired.as_ref()
    }

    fn due(&self, now: Millis, every_ms: u64) -> bool {
        self.ordered_at.is_none_or(|at| now.since(at) >= every_ms)
    }
}

/// An order repeated until it has its effect is repeated this often.
const REPEAT_MS: u64 = 2_000;

/// All VMs.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Vms {
    all: BTreeMap<VmName, Vm>,
    /// The keys of `all`, to walk over while it changes.
    names: Vec<VmName>,
}

impl Vms {
    fn entry(&mut self, name: &VmName) -> &mut Vm {
        if !self.all.contains_key(name) {
            self.all.insert(name.clone(), Vm::new());
            self.names.push(name.clone());
        }
        self.all.get_mut(name).expect("inserted above")
    }

    /// Drops VMs of which nothing is wanted or left.
    fn prune(&mut self) {
        let before = self.all.len();
        self.all.retain(|_, vm| vm.desired.is_some() || vm.here() || vm.ready);
        if self.all.len() != before {
            self.names.retain(|name| self.all.contains_key(name));
        }
    }

    /// Found at the start of the agent: its volumes are primary.
    pub fn found(&mut self, name: &VmName, run: VmRun) {
        let vm = self.entry(name);
        (vm.run, vm.role, vm.on_lan) = (run, Role::Primary, None);
    }

    pub fn desired(&mut self, list: Vec<DesiredVm>) {
        for vm in self.all.values_mut() {
            vm.desired = None;
        }
        for wish in list {
            let name = wish.name.clone();
            self.entry(&name).desired = Some(wish);
        }
        self.prune();
    }

    pub fn ready(&mut self, name: &VmName, ready: bool) {
        self.entry(name).ready = ready;
    }

    pub fn state(&mut self, now: Millis, name: &VmName, run: VmRun, retry_ms: u64) {
        let vm = self.entry(name);
        vm.run = run;
        vm.ordered_at = None;
        if run != VmRun::Stopped || !vm.starting {
            vm.starting = false;
        }
        if run == VmRun::Failed {
            vm.not_before = Millis(now.0 + retry_ms);
        }
        if matches!(run, VmRun::Running | VmRun::Paused) && vm.role == Role::Secondary {
            vm.role = Role::Primary;
        }
    }

    pub fn promoted(&mut self, now: Millis, name: &VmName, ok: bool, retry_ms: u64) {
        let vm = self.entry(name);
        if vm.role == Role::Promoting {
            vm.role = if ok { Role::Primary } else { Role::Secondary };
            if !ok {
                vm.not_before = Millis(now.0 + retry_ms);
            }
        } else if ok && vm.role == Role::Secondary {
            // A promotion given up on has worked after all: have it undone.
            vm.role = Role::Primary;
        }
    }

    pub fn demoted(&mut self, now: Millis, name: &VmName, ok: bool, retry_ms: u64) {
        let vm = self.entry(name);
        if vm.role == Role::Demoting {
            vm.role = if ok { Role::Secondary } else { Role::Primary };
            vm.not_before = Millis(now.0 + retry_ms);
        }
    }

    /// All of them were evicted.
    pub fn evicted(&mut self, names: &[VmName]) {
        for name in names {
            let vm = self.entry(name);
            (vm.run, vm.role, vm.starting) = (VmRun::Stopped, Role::Secondary, false);
            vm.ordered_at = None;
        }
    }

    pub fn get(&self, name: &VmName) -> Option<&Vm> {
        self.all.get(name)
    }

    pub fn here(&self) -> impl Iterator<Item = &VmName> {
        self.all.iter().filter(|(_, vm)| vm.here()).map(|(name, _)| name)
    }

    pub fn alive(&self) -> impl Iterator<Item = &VmName> {
        self.all.iter().filter(|(_, vm)| vm.alive()).map(|(name, _)| name)
    }

    /// Whether a role is being changed right now.
    pub fn changing_role(&self) -> bool {
        self.all.values().any(|vm| matches!(vm.role, Role::Promoting | Role::Demoting))
    }

    /// Whether any vCPU runs here or may at any moment.
    pub fn any_runs(&self) -> bool {
        self.all.values().any(Vm::runs)
    }

    /// VMs HQ wants.
    pub fn wanted(&self) -> impl Iterator<Item = &DesiredVm> {
        self.all.values().filter_map(|vm| vm.desired.as_ref())
    }

    pub fn is_wanted(&self, name: &VmName) -> bool {
        self.all.get(name).is_some_and(|vm| vm.desired.is_some())
    }

    /// Weight of the VMs that belong to `slot`.
    pub fn weight(&self, owners: &BTreeMap<VmName, NodeSlot>, slot: NodeSlot) -> u64 {
        self.wanted()
            .filter(|wish| owners.get(&wish.name) == Some(&slot))
            .map(|wish| u64::from(wish.weight))
            .sum()
    }
}

impl Core {
    /// Gives each VM the next order it needs.
    pub(crate) fn drive_vms(&mut self) {
        let authority = self.authority();
        let names = std::mem::take(&mut self.vms.names);
        for name in &names {
            match authority {
                Authority::Hold => self.hold_vm(name),
                Authority::Keep => self.keep_vm(name),
                Authority::Full => self.run_vm(name),
            }
        }
        self.vms.names = names;
        if authority == Authority::Full {
            self.vms.prune();
        }
    }

    /// Has QEMUs loaded for VMs that may have to be started soon: while the peer is silent its VMs,
    /// so that their start costs no time once it must have stopped (R6), and what is promoted.
    pub(crate) fn drive_standby(&mut self) {
        let peer_silent = matches!(self.mode, Mode::Suspect | Mode::Solo)
            && !self.was_up
            && self.facts().is_none();
        let full = self.authority() == Authority::Full;
        let me = self.me();
        for (name, vm) in &mut self.vms.all {
            let startable = vm.desired.is_some() && vm.ready && !vm.alive();
            let owner = self.durable.owners.get(name);
            let mine = owner == Some(&me);
            let coming = self.durable.moves.get(name) == Some(&me);
            let soon = match owner {
                Some(_) if mine => full && (vm.prepared.is_some() || vm.role == Role::Promoting),
                Some(_) => peer_silent || coming,
                None => false,
            };
            let live = self.mode == Mode::Pair
                && if mine { self.moves.live.resumes(name) } else { coming };
            let load = if live { Load::Receive } else { Load::Boot };
            let wanted = (startable && soon).then_some(load);
            if vm.prepared == wanted {
                continue;
            }
            match wanted {
                Some(Load::Boot) => self.out.push(Effect::PrepareVm { vm: name.clone() }),
                Some(Load::Receive) => self.out.push(Effect::ReceiveVm { vm: name.clone() }),
                None if !vm.alive() => self.out.push(Effect::DiscardVm { vm: name.clone() }),
                None => {}
            }
            self.moves.live.receives_no_more(name);
            vm.prepared = wanted;
        }
    }

    /// No right to run: off the LAN at once, vCPUs stopped.
    fn hold_vm(&mut self, name: &VmName) {
        let now = self.now;
        let vm = self.vms.entry(name);
        if !vm.alive() {
            return;
        }
        let due = vm.due(now, REPEAT_MS) && vm.run == VmRun::Running;
        if due {
            vm.ordered_at = Some(now);
        }
        if vm.on_lan.replace(false) != Some(false) {
            self.out.push(Effect::TapDown { vm: name.clone() });
        }
        if due {
            self.out.push(Effect::PauseVm { vm: name.clone() });
        }
    }

    /// What runs may go on; a frozen VM is taken off the LAN meanwhile. With the link back its
    /// writes are acknowledged again, however long the volumes then take to be equal.
    fn keep_vm(&mut self, name: &VmName) {
        let frozen = self.mode == Mode::Suspect && !self.was_up;
        let mine = self.is_mine(name);
        let vm = self.vms.entry(name);
        if !vm.alive() {
            return;
        }
        if !frozen {
            // What has been handed over stands still here, and must not go on.
            if mine {
                self.thaw_vm(name);
            }
        } else if vm.on_lan.replace(false) != Some(false) {
            self.out.push(Effect::TapDown { vm: name.clone() });
        }
    }

    /// Resumes a VM that was held, and puts it back on the LAN.
    fn thaw_vm(&mut self, name: &VmName) {
        if self.mode == Mode::Boot {
            return;
        }
        let now = self.now;
        let vm = self.vms.entry(name);
        if vm.run == VmRun::Paused && vm.due(now, REPEAT_MS) {
            vm.ordered_at = Some(now);
            self.out.push(Effect::ResumeVm { vm: name.clone() });
        }
        let vm = self.vms.entry(name);
        if vm.run == VmRun::Running && vm.on_lan.replace(true) != Some(true) {
            self.out.push(Effect::TapUp { vm: name.clone() });
        }
    }

    /// Full rights: start what belongs here, stop what does not.
    fn run_vm(&mut self, name: &VmName) {
        let mine = self.is_mine(name);
        let vm = self.vms.entry(name);
        let wanted = vm.desired.is_some() && mine;
        if !wanted && vm.here() {
            if vm.run == VmRun::Running && !self.hand_over(name) {
                return;
            }
            return self.stop_vm(name);
        }
        if !wanted {
            return;
        }
        if vm.alive() {
            return self.thaw_vm(name);
        }
        let vm = self.vms.entry(name);
        if !vm.ready || self.now < vm.not_before || !self.may_start(name) {
            return;
        }
        self.start_vm(name);
    }

    fn start_vm(&mut self, name: &VmName) {
        let now = self.now;
        let vm = self.vms.entry(name);
        match vm.role {
            Role::Secondary => {
                vm.role = Role::Promoting;
                self.out.push(Effect::Promote { vm: name.clone() });
            }
            Role::Primary => {
                vm.starting = true;
                vm.on_lan = Some(true);
                vm.ordered_at = Some(now);
                let resume = self.moves.live.start(name);
                self.out.push(Effect::StartVm { vm: name.clone(), resume });
            }
            Role::Promoting | Role::Demoting => {}
        }
    }

    fn stop_vm(&mut self, name: &VmName) {
        let now = self.now;
        let vm = self.vms.entry(name);
        if vm.alive() {
            // A guest may take long to shut down; the order is not repeated often.
            if vm.due(now, 60_000) {
                vm.ordered_at = Some(now);
                self.out.push(Effect::StopVm { vm: name.clone() });
            }
        } else if vm.role == Role::Primary && now >= vm.not_before {
            vm.role = Role::Demoting;
            self.out.push(Effect::Demote { vm: name.clone() });
        }
    }

    /// Whether a VM that belongs here may be started now (its owner entry is durable here).
    fn may_start(&self, name: &VmName) -> bool {
        if self.mode == Mode::Solo {
            return self.watchdog.is_some();
        }
        let Some(body) = self.peer.body(self.now, self.config.heard_ms) else { return false };
        let agreed = body.owners.get(name) == Some(&self.config.slot);
        let away = !body.running.contains(name);
        // Someone could go on with it: by a witness that knows the pair, or as the tie-holder.
        let held = matches!(self.durable.tie, crate::Tie::Node(_));
        let published = self.durable.last_seen.is_some() || held;
        let fence_known = match self.watchdog {
            Some(true) => true,
            Some(false) => !body.sees_watchdog,
            None => false,
        };
        agreed && away && published && fence_known
    }

    /// What the owner table should become: entries the peer has, entries for new VMs (made by
    /// slot A), none for VMs HQ no longer wants. `None` if it is right already.
    pub(crate) fn better_owners(&self) -> Option<BTreeMap<VmName, NodeSlot>> {
        let body = self.peer.body(self.now, self.config.heard_ms)?;
        let owners = &self.durable.owners;
        let new: Vec<(VmName, NodeSlot)> = self
            .vms
            .wanted()
            .filter(|wish| !owners.contains_key(&wish.name))
            .filter_map(|wish| {
                let made =
                    (self.config.slot == NodeSlot::A).then(|| self.moves.placement.first(wish));
                let owner = body.owners.get(&wish.name).copied().or(made)?;
                Some((wish.name.clone(), owner))
            })
            .collect();
        if new.is_empty() && !owners.keys().any(|name| self.is_leftover(name)) {
            return None;
        }
        let mut better = owners.clone();
        better.retain(|name, _| !self.is_leftover(name));
        better.extend(new);
        Some(better)
    }

    /// HQ no longer wants it, and nothing of it is left here.
    fn is_leftover(&self, name: &VmName) -> bool {
        let gone = !self.vms.is_wanted(name) && !self.vms.get(name).is_some_and(Vm::here);
        self.desired_known && gone
    }

    /// VMs a message names as running here.
    pub(crate) fn running(&self) -> BTreeSet<VmName> {
        self.vms.alive().cloned().collect()
    }
}
