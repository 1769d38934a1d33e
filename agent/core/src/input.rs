// SPDX-License-Identifier: Apache-2.0
//! What the shell tells the core: facts that have happened.

use crate::moves::Placement;
use crate::state::DurableState;
use provisioning_protocol::ids::{NodeSlot, VmName};
use provisioning_protocol::peer::{Path, PeerBody};
use provisioning_protocol::witness::WitnessAnswer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A fact. The shell hands each one to [`crate::Core::step`] with the monotonic time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// First input, exactly once. Nothing is decided before it.
    Boot(Box<BootFacts>),
    /// About every 100 ms, always, even when other inputs come: timers live on it, and the
    /// watchdog lease is renewed by it.
    Tick,
    /// A datagram of the peer that passed the checks of site, size and sender. The core itself
    /// drops what is older than it has seen, so hand over both paths' copies.
    PeerHeard {
        /// The path it came by.
        path: Path,
        /// The sender's boot number.
        boot: u64,
        /// The sender's counter within that boot.
        seq: u64,
        /// What it says.
        body: Arc<PeerBody>,
    },
    /// The replication summary changed (or was read for the first time after `Boot`).
    LinkChanged(LinkSummary),
    /// The kernel runs `fence-peer` for a volume and waits for our answer. The other helper
    /// calls are answered 0 by the shell and never come here.
    HelperAsked {
        /// Made by the shell, unique within this boot of the agent.
        id: u64,
        /// The VM the volume belongs to.
        vm: VmName,
        /// Whether the volume is primary here: then its I/O is frozen now. A secondary is asked
        /// only while it is being promoted.
        primary: bool,
    },
    /// The helper process has exited, answered or not.
    HelperGone {
        /// The id of [`Input::HelperAsked`].
        id: u64,
    },
    /// The witness answered a swap, or a read (then `granted` is false).
    WitnessAnswered(WitnessAnswer),
    /// The request failed or timed out (3 s); whether the witness carried it out is unknown.
    WitnessUnreachable {
        /// The request's id.
        request_id: u64,
    },
    /// The state of [`crate::Effect::Persist`] with this token is on disk, directory synced.
    Persisted {
        /// The token of the effect.
        token: u64,
    },
    /// The whole list of VMs HQ wants at this site; replaces the earlier one. Must come after
    /// `Boot` (from the stored copy) even if HQ cannot be reached.
    Desired(Vec<DesiredVm>),
    /// Whether HQ has set up a witness on site: what the desired state says, first from the stored
    /// copy. Until it comes, nothing is known of one.
    LocalWitness(bool),
    /// What HQ wants of where VMs run; replaces the earlier one. Comes with `Desired`.
    Placement(Placement),
    /// A person at this server says, in the words asked for, that the other one is switched off or
    /// has all its cables pulled (R8). Answered by [`crate::Effect::Report`].
    OperatorDeclares,
    /// A person at this server says, in the words asked for, that the site is to go on with the whole
    /// copies kept from before a resync that did not end. Answered by
    /// [`crate::Effect::RestoreVolumes`] or [`crate::Effect::Report`].
    OperatorRestores,
    /// `RestoreVolumes` has ended.
    VolumesRestored {
        /// Whether every volume that was half copied is whole again.
        ok: bool,
    },
    /// A person at this server says, in the words asked for, that what it holds is given up, and the
    /// peer, which goes on alone, is what counts. Answered by [`crate::Effect::GiveUpVolumes`] in the
    /// end, or by [`crate::Effect::Report`].
    OperatorGivesUp,
    /// `GiveUpVolumes` has ended.
    VolumesGivenUp {
        /// Whether every volume will be copied from the peer in full.
        ok: bool,
    },
    /// Whether the peer's BMC can be asked; `false` until said otherwise.
    BmcConfigured(bool),
    /// [`crate::Effect::FencePeer`] has ended.
    BmcAnswered {
        /// The id of the effect.
        id: u64,
        /// Whether the BMC said twice, half a second apart at least, that the peer is off. Silence,
        /// an error and any other word are `false`.
        off: bool,
    },
    /// Whether all volumes of a VM exist here, attached, and have once been connected and up to
    /// date on both servers. Sent after `Boot` for each existing VM, and on change.
    VolumesReady {
        /// The VM.
        vm: VmName,
        /// Ready or not.
        ready: bool,
    },
    /// A VM's QEMU changed state here. Sent on change; VMs that ran before this boot of the
    /// agent are in [`BootFacts::vms`].
    VmState {
        /// The VM.
        vm: VmName,
        /// Its state now.
        state: VmRun,
    },
    /// `ReceiveVm` has ended.
    VmReceives {
        /// The VM.
        vm: VmName,
        /// Under which ticket its memory is waited for; `None` if it cannot be received live.
        ticket: Option<u64>,
    },
    /// `HandVm` has ended.
    VmHanded {
        /// The VM.
        vm: VmName,
        /// The ticket of the effect.
        ticket: u64,
        /// Whether the peer has all of its memory, and its QEMU here was killed for it.
        whole: bool,
    },
    /// `Promote` has ended: all volumes of the VM are primary, or (after 5 s of retries) not.
    PromoteDone {
        /// The VM.
        vm: VmName,
        /// Whether all its volumes are primary.
        ok: bool,
    },
    /// `Demote` has ended.
    DemoteDone {
        /// The VM.
        vm: VmName,
        /// Whether all its volumes are secondary.
        ok: bool,
    },
    /// `Outdate` has ended; `ok` if every volume is marked outdated.
    OutdateDone {
        /// Whether it worked.
        ok: bool,
    },
    /// `Evict` has ended. `ok`: no QEMU of these VMs is left and their volumes are secondary.
    EvictDone {
        /// Whether it worked.
        ok: bool,
    },
    /// The watchdog process says whether the server's watchdog is armed; sent after
    /// `ArmWatchdog`/`DisarmWatchdog`, and when it changes by itself.
    WatchdogArmed(bool),
}

/// What the shell knows when the agent starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFacts {
    /// The newest valid durable state; `None` if there is none (a new or replaced server, or
    /// both slots bad): such a server has no vote until it has joined its peer.
    pub durable: Option<DurableState>,
    /// VMs whose QEMU was found (the agent restarted, the server did not), and their state; and,
    /// as `Stopped`, VMs without a QEMU whose volumes are primary here.
    pub vms: Vec<(VmName, VmRun)>,
    /// Replication path in force: where the route to the peer's replication address points.
    pub path: Path,
}

/// All volumes of this server in one line. Counted are the volumes that were ready once
/// (see [`Input::VolumesReady`]): one still being made is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct LinkSummary {
    /// How many volumes are counted.
    pub volumes: u32,
    /// Whether all of them are connected (Connected, or any syncing state).
    pub connected: bool,
    /// Whether at least one is StandAlone: it will not reconnect by itself.
    pub stand_alone: bool,
    /// Whether the I/O of at least one primary volume is suspended by fencing.
    pub frozen: bool,
    /// Whether DRBD has refused a connection because the data diverged.
    pub split_brain: bool,
    /// The worst disk state of this server's volumes.
    pub mine: Disk,
    /// The worst disk state of the peer's, as DRBD shows them here.
    pub peers: Disk,
    /// Resync progress of the volume furthest behind, if one resyncs.
    pub resync_percent: Option<u8>,
}

/// DRBD disk states, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Disk {
    /// Not known (peer not connected).
    #[default]
    Unknown,
    /// No disk, failed, or being attached.
    Diskless,
    /// Partly overwritten: a resync has not ended.
    Inconsistent,
    /// Known to be older than the peer's.
    Outdated,
    /// Whole, but whether it is the newest is not known (booted alone).
    Consistent,
    /// Whole and newest.
    UpToDate,
}

/// A VM as HQ wants it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DesiredVm {
    /// Its name.
    pub name: VmName,
    /// Where it is first started.
    pub home: NodeSlot,
    /// How much it counts when one of two servers has to give way; 1 if nothing is known.
    pub weight: u32,
}

/// What a VM's QEMU does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmRun {
    /// vCPUs run (or may run at any moment: report it as soon as QEMU is being started).
    Running,
    /// QEMU lives, vCPUs are stopped (QMP event STOP seen).
    Paused,
    /// No QEMU.
    Stopped,
    /// No QEMU: it ended by itself or could not be started.
    Failed,
}

/// VMs by name, for messages.
pub type VmSet = BTreeSet<VmName>;
