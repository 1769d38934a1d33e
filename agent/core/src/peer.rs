// SPDX-License-Identifier: Apache-2.0
//! What is known of the peer: its newest message, and on which paths it is heard.

use crate::bounds::message_is_sound;
use crate::state::Millis;
use provisioning_protocol::ids::{Epoch, NodeSlot};
use provisioning_protocol::peer::{LocalWitness, Path, PeerBody, Tie};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// How many earlier boots of the peer are remembered, to drop their late datagrams.
const RETIRED_MAX: usize = 8;
/// A copy this far behind the newest is a straggler, no sign of life.
const BEHIND_MAX: u64 = 10;
/// Another boot is believed only when the known one has been silent this long (a few heartbeats):
/// a late datagram from before a restart must not pass for a new one.
const RESTART_MS: u64 = 500;
/// A retired boot that says something new after this long of silence was retired wrongly.
const BACK_MS: u64 = 10_000;

/// The peer as heard.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct PeerView {
    boot: Option<u64>,
    seq: u64,
    taken_at: Millis,
    /// Earlier boots and the newest sequence of each.
    retired: VecDeque<(u64, u64)>,
    body: Option<Arc<PeerBody>>,
    /// Two sets of the newest message, which are asked for many times a step.
    in_sync: [bool; 2],
    hears_me: [bool; 2],
    body_at: Millis,
    heard: [Option<Millis>; 2],
    mutual_since: [Option<Millis>; 2],
    solo_since: Option<Millis>,
    silent_since: Millis,
}

/// The newest message in the terms of the rules; exists only while the peer is heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerFacts {
    /// When the message came.
    pub at: Millis,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether its in-sync set holds the peer itself.
    pub votes: bool,
    /// Whether its in-sync set holds this server.
    pub has_me: bool,
    /// Whether it goes on alone.
    pub solo: bool,
    /// For how long it has said so without a break.
    pub solo_ms: u64,
    /// Whether it asked the witness at its epoch.
    pub claimed: bool,
    /// Whether its volumes are connected.
    pub link_up: bool,
    /// Whether its disks are up to date.
    pub disks_up_to_date: bool,
    /// Whether its hardware watchdog is armed.
    pub watchdog_armed: bool,
    /// Whether no VM is left on it and none may be started.
    pub released: bool,
    /// Whether it hears us by a path by which we hear it.
    pub mutual: bool,
    /// Who breaks the tie, on its disk.
    pub tie: Tie,
    /// Whether HQ has not answered it for long.
    pub hq_lost: bool,
    /// What it knows of a witness on site.
    pub local: LocalWitness,
}

impl PeerFacts {
    /// Whether it counts both servers in sync and does not go on alone.
    pub fn paired(&self) -> bool {
        self.votes && self.has_me && !self.solo
    }

    /// Whether it has given up its vote in our favour.
    pub fn yielded(&self) -> bool {
        self.has_me && !self.votes && !self.solo
    }
}

fn index(path: Path) -> usize {
    match path {
        Path::Cable => 0,
        Path::Lan => 1,
    }
}

impl PeerView {
    /// Takes a datagram.
    pub fn take(&mut self, now: Millis, path: Path, boot: u64, seq: u64, body: Arc<PeerBody>) {
        if !message_is_sound(seq, &body) {
            return;
        }
        if self.boot == Some(boot) {
            if seq + BEHIND_MAX < self.seq {
                return;
            }
            self.heard[index(path)] = Some(now);
            if seq <= self.seq {
                return;
            }
        } else {
            if !self.is_new(now, boot, seq) {
                return;
            }
            if let Some(old) = self.boot.replace(boot) {
                self.retired.retain(|(known, _)| *known != boot);
                self.retired.push_back((old, self.seq));
                if self.retired.len() > RETIRED_MAX {
                    self.retired.pop_front();
                }
            }
            self.heard = [None; 2];
            self.heard[index(path)] = Some(now);
        }
        self.seq = seq;
        self.taken_at = now;
        self.solo_since = if body.solo { self.solo_since.or(Some(now)) } else { None };
        self.body_at = now;
        self.in_sync = NodeSlot::BOTH.map(|slot| body.in_sync.contains(&slot));
        self.hears_me = Path::BOTH.map(|path| body.hears.contains(&path));
        self.body = Some(body);
    }

    /// Whether a datagram of another boot than the known one is of a newer boot.
    fn is_new(&self, now: Millis, boot: u64, seq: u64) -> bool {
        let silent_ms = now.since(self.taken_at);
        match self.retired.iter().find(|(known, _)| *known == boot) {
            _ if self.boot.is_none() => true,
            None => silent_ms >= RESTART_MS,
            Some((_, newest)) => silent_ms >= BACK_MS && seq > *newest,
        }
    }

    /// Brings the timers up to `now`.
    pub fn track(&mut self, now: Millis, heard_ms: u64) {
        for path in Path::BOTH {
            let mutual = self.mutual(now, heard_ms, path);
            let since = &mut self.mutual_since[index(path)];
            *since = if mutual { since.or(Some(now)) } else { None };
        }
        if self.talking(now, heard_ms) {
            self.silent_since = now;
        }
        if self.body(now, heard_ms).is_none() {
            self.solo_since = None;
        }
    }

    /// Whether the peer is heard on `path`.
    pub fn hears(&self, now: Millis, heard_ms: u64, path: Path) -> bool {
        self.heard[index(path)].is_some_and(|at| now.since(at) < heard_ms)
    }

    /// Paths on which the peer is heard.
    pub fn paths(&self, now: Millis, heard_ms: u64) -> BTreeSet<Path> {
        Path::BOTH.into_iter().filter(|path| self.hears(now, heard_ms, *path)).collect()
    }

    /// Whether `path` works both ways.
    pub fn mutual(&self, now: Millis, heard_ms: u64, path: Path) -> bool {
        self.hears(now, heard_ms, path) && self.hears_me[index(path)]
    }

    /// Since when `path` has worked both ways.
    pub fn mutual_since(&self, path: Path) -> Option<Millis> {
        self.mutual_since[index(path)]
    }

    /// Whether any path works both ways.
    pub fn talking(&self, now: Millis, heard_ms: u64) -> bool {
        Path::BOTH.into_iter().any(|path| self.mutual(now, heard_ms, path))
    }

    /// Since when one path or another has worked both ways.
    pub fn talking_since(&self) -> Option<Millis> {
        self.mutual_since.iter().flatten().min().copied()
    }

    /// Since when no path has worked both ways (now, if one does).
    pub fn silent_since(&self) -> Millis {
        self.silent_since
    }

    /// Starts the silence timer: before this nothing can have been heard.
    pub fn start(&mut self, now: Millis) {
        self.silent_since = now;
    }

    /// The newest message, while the peer is heard.
    pub fn body(&self, now: Millis, heard_ms: u64) -> Option<&PeerBody> {
        let heard = Path::BOTH.into_iter().any(|path| self.hears(now, heard_ms, path));
        self.body.as_deref().filter(|_| heard)
    }

    /// The newest message as facts, while the peer is heard.
    pub fn facts(&self, now: Millis, heard_ms: u64, me: NodeSlot) -> Option<PeerFacts> {
        let body = self.body(now, heard_ms)?;
        Some(PeerFacts {
            at: self.body_at,
            epoch: body.epoch,
            votes: self.in_sync[usize::from(me == NodeSlot::A)],
            has_me: self.in_sync[usize::from(me == NodeSlot::B)],
            solo: body.solo,
            solo_ms: self.solo_since.map_or(0, |since| now.since(since)),
            claimed: body.claimed,
            link_up: body.link_up,
            disks_up_to_date: body.disks_up_to_date,
            watchdog_armed: body.watchdog_armed,
            released: body.released && body.running.is_empty(),
            mutual: self.talking(now, heard_ms),
            tie: body.tie,
            hq_lost: body.hq_lost,
            local: body.local_witness,
        })
    }
}
