// SPDX-License-Identifier: Apache-2.0
//! What the core tells the shell to do. The shell carries effects out in the order given; an
//! effect that takes time must not hold up the later ones or the next input.

use crate::state::DurableState;
use provisioning_protocol::ids::VmName;
use provisioning_protocol::peer::{Path, PeerBody};
use provisioning_protocol::witness::WitnessSwap;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Write to the older of the two slots, fsync, then say [`crate::Input::Persisted`]. Only
    /// one is under way at a time. A failed write must not be answered (retry, or stop the
    /// agent).
    Persist {
        /// To be given back.
        token: u64,
        /// What to store.
        state: Box<DurableState>,
    },
    /// Send on both paths with the next sequence number (the same on both).
    SendPeer {
        /// What to say.
        body: Box<PeerBody>,
    },
    /// `POST` to the witness; answer `WitnessAnswered` or, after 3 s, `WitnessUnreachable`.
    AskWitness {
        /// Which one.
        at: WitnessAt,
        /// The request.
        swap: WitnessSwap,
    },
    /// `GET` the witness record; answer as above with `granted: false` and this id.
    ReadWitness {
        /// Which one.
        at: WitnessAt,
        /// Id for the answer.
        request_id: u64,
    },
    /// Let the helper exit with this code; say `HelperGone` when its process is gone.
    AnswerHelper {
        /// The id of [`crate::Input::HelperAsked`].
        id: u64,
        /// Its exit code.
        code: HelperCode,
    },
    /// `disconnect` every volume that is not primary here, then mark it `outdate`; leave it
    /// disconnected until `Reconnect`. Answer `OutdateDone`.
    Outdate,
    /// `primary` on every volume of the VM, retried for 5 s; answer `PromoteDone`. A helper may
    /// be called meanwhile: hand it to the core as always.
    Promote {
        /// The VM.
        vm: VmName,
    },
    /// `secondary` on every volume of the VM; answer `DemoteDone`.
    Demote {
        /// The VM.
        vm: VmName,
    },
    /// Have everything the VM's start needs loaded short of its volumes, vCPUs stopped: its
    /// start may come soon and must then be quick. Nothing is reported.
    PrepareVm {
        /// The VM.
        vm: VmName,
    },
    /// Have the same loaded, but so that it takes the memory of the VM from the other server under
    /// a ticket of its own, which nothing had before; answer [`crate::Input::VmReceives`]. Replaces
    /// what `PrepareVm` loaded, and the other way round.
    ReceiveVm {
        /// The VM.
        vm: VmName,
    },
    /// Put away what `PrepareVm` or `ReceiveVm` loaded; never a VM that was started.
    DiscardVm {
        /// The VM.
        vm: VmName,
    },
    /// Send the memory of the running VM to the peer's QEMU of this ticket, stop its vCPUs for the
    /// rest, and kill its QEMU once the peer has all of it. In all other cases it goes on here. Report
    /// `VmState` if it is gone, then [`crate::Input::VmHanded`].
    HandVm {
        /// The VM.
        vm: VmName,
        /// Where to.
        ticket: u64,
    },
    /// Call off the `HandVm` under way, at once: the VM goes on here unless it is gone already.
    KeepVm {
        /// The VM.
        vm: VmName,
    },
    /// Start QEMU (volumes are primary); report `VmState`.
    StartVm {
        /// The VM.
        vm: VmName,
        /// The ticket of the received memory to go on with. Without one, and if that memory is not
        /// there whole, the VM boots.
        resume: Option<u64>,
    },
    /// Shut the VM down (ACPI, then kill); report `VmState`.
    StopVm {
        /// The VM.
        vm: VmName,
    },
    /// Take the VM's tap down: what it says must not reach the LAN.
    TapDown {
        /// The VM.
        vm: VmName,
    },
    /// Put the VM's tap up again.
    TapUp {
        /// The VM.
        vm: VmName,
    },
    /// QMP `stop`: report `VmState(Paused)` at the STOP event; the reply may hang.
    PauseVm {
        /// The VM.
        vm: VmName,
    },
    /// QMP `cont`; report `VmState(Running)`.
    ResumeVm {
        /// The VM.
        vm: VmName,
    },
    /// The whole eviction for each VM, in the order that is safe: tap down; `detach --force`,
    /// `resume-io`, kill QEMU, `secondary`, `down`, apply the activity log, attach, connect.
    /// No helper of these VMs is outstanding when this is given, but one may be called meanwhile:
    /// hand it over, and do not `down` before it is gone. Answer `EvictDone`; a step that blocks
    /// for more than 5 s is `ok: false`.
    Evict {
        /// VMs with a QEMU here, or with primary volumes.
        vms: Vec<VmName>,
    },
    /// Put each VM whose volumes are half copied back to the whole copies kept from before, with fresh
    /// replication metadata, so that the peer's copy is taken whole if it comes after all; answer
    /// [`crate::Input::VolumesRestored`]. Their `Promote`, which comes under a durable grant alone,
    /// is what declares them the newest.
    RestoreVolumes,
    /// Keep a whole copy of each volume that is not connected, then give it fresh replication metadata
    /// and connect it: the peer's copy is taken whole. Answer [`crate::Input::VolumesGivenUp`].
    GiveUpVolumes,
    /// For each volume that is not connected: `disconnect` (this makes a frozen primary's
    /// helper run again), then `connect`. Connected volumes are left alone.
    Reconnect,
    /// Point the route to the peer's replication address at this path's tunnel.
    SwitchPath {
        /// The path.
        path: Path,
    },
    /// Have the watchdog process open and arm the server's watchdog; answer `WatchdogArmed`.
    ArmWatchdog,
    /// Disarm it; answer `WatchdogArmed(false)`.
    DisarmWatchdog,
    /// Renew the agent's lease (8 s) with the watchdog process. Comes twice a second for as long as
    /// every vCPU here runs by right; the shell must renew for no other reason.
    RenewLease,
    /// Switch the peer's power off by its BMC and read "Off" back twice; answer
    /// [`crate::Input::BmcAnswered`] within 10 s, whatever happens.
    FencePeer {
        /// To be given back.
        id: u64,
    },
    /// Give up the `FencePeer` under way: what has not been sent must not be sent any more.
    SparePeer,
    /// Switch the peer's power on by its BMC. Nothing is reported.
    PowerOnPeer,
    /// Reset the server now (sysrq-b): going on would be unsafe.
    Reset {
        /// Why, for the flight recorder.
        cause: String,
    },
    /// One line for a person: log it, keep it, send it to HQ.
    Report {
        /// What happened.
        cause: Cause,
    },
}

/// Where a witness stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WitnessAt {
    /// At HQ.
    Hq,
    /// On site.
    Local,
}

/// Exit codes of the fence-peer helper that we use. Never 0, 3 or 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HelperCode {
    /// 1: not decided; the volume stays frozen.
    Undecided,
    /// 4: the peer has marked itself outdated, by agreement.
    PeerOutdated,
    /// 6: this secondary lost; it becomes outdated and is not promoted.
    Lost,
    /// 7: a durable grant is held.
    Granted,
}

impl HelperCode {
    /// The process exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Undecided => 1,
            Self::PeerOutdated => 4,
            Self::Lost => 6,
            Self::Granted => 7,
        }
    }

    /// Whether the kernel takes it as leave to go on without the peer.
    #[must_use]
    pub fn thaws(self) -> bool {
        matches!(self, Self::PeerOutdated | Self::Granted)
    }
}

/// A line of the flight recorder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Stable code (`peer_lost`, `grant`, `takeover`, `lost`, `evicted`, `pair`, …).
    pub code: &'static str,
    /// One sentence with the evidence used.
    pub text: String,
}
