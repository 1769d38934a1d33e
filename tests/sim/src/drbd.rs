// SPDX-License-Identifier: Apache-2.0
//! One side of one replicated volume, as DRBD 8.4 behaves (ha.md 4.3 and 4.4): disk states,
//! data generations, freeze, and what a connection handshake decides.

use agent_core::Disk;

/// Connection of one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conn {
    /// Will not connect by itself.
    StandAlone,
    /// Trying since then.
    Connecting(u64),
    /// Connected.
    Connected,
}

/// One side of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vol {
    /// Disk state (`Diskless`: not attached).
    pub disk: Disk,
    /// Whether this side is primary.
    pub primary: bool,
    /// Connection.
    pub conn: Conn,
    /// When this side will notice that the other does not answer.
    pub notice_at: Option<u64>,
    /// I/O suspended by fencing.
    pub frozen: bool,
    /// The peer's disk as last known here.
    pub peer_disk: Disk,
    /// On disk: the peer is known to be outdated.
    pub peer_outdated: bool,
    /// Counts connection losses: an old helper's answer means nothing.
    pub losses: u32,
    /// Was primary when the power went.
    pub crashed: bool,
    /// Data generation now, the one the peer shared last (0: still shared), and older ones.
    pub generation: u64,
    /// Generation at the moment the peer was left behind; 0 if it is not.
    pub bitmap: u64,
    /// Earlier generations.
    pub history: Vec<u64>,
    /// Ids of the writes on this disk, rising.
    pub log: Vec<u32>,
    /// A write without the peer's acknowledgement.
    pub waiting: Option<u32>,
    /// Resync under way: this side is the target until then.
    pub sync_until: Option<u64>,
    /// Diverged data was met.
    pub split_brain: bool,
}

/// What a handshake decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Same data on both.
    Same,
    /// The first side's data goes to the second.
    FirstToSecond,
    /// The second side's data goes to the first.
    SecondToFirst,
    /// Both refuse: two primaries, or a primary would be overwritten.
    Refused,
    /// Diverged.
    SplitBrain,
}

impl Vol {
    /// A volume just made: identical on both sides.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self {
            disk: Disk::UpToDate,
            primary: false,
            conn: Conn::Connecting(0),
            notice_at: None,
            frozen: false,
            peer_disk: Disk::Unknown,
            peer_outdated: false,
            losses: 0,
            crashed: false,
            generation,
            bitmap: 0,
            history: Vec::new(),
            log: Vec::new(),
            waiting: None,
            sync_until: None,
            split_brain: false,
        }
    }

    /// Whether this side is connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.conn == Conn::Connected
    }

    /// From now on this side holds data the peer lacks.
    pub fn leave_peer_behind(&mut self, fresh: u64) {
        if self.bitmap == 0 {
            self.bitmap = self.generation;
            self.history.push(self.generation);
            self.generation = fresh;
        }
    }

    /// Power lost: what is left is on disk.
    pub fn power_loss(&mut self) {
        self.crashed |= self.primary;
        self.primary = false;
        self.frozen = false;
        self.waiting = None;
        self.conn = Conn::StandAlone;
        self.notice_at = None;
        self.sync_until = None;
        self.peer_disk = Disk::Unknown;
        self.losses += 1;
        if self.disk == Disk::UpToDate && !self.peer_outdated {
            self.disk = Disk::Consistent;
        }
    }

    /// Whether `other`'s data is an ancestor of this side's.
    fn covers(&self, other: &Self) -> bool {
        self.generation == other.generation
            || self.bitmap == other.generation
            || self.history.contains(&other.generation)
    }

    /// What a handshake with `other` decides.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Meeting {
        if self.primary && other.primary {
            return Meeting::Refused;
        }
        let whole = |vol: &Self| vol.disk > Disk::Inconsistent;
        let direction = match (self.covers(other), other.covers(self)) {
            (true, true) => match (whole(self), whole(other)) {
                (true, true) if self.crashed == other.crashed => Meeting::Same,
                (true, true) if self.crashed => Meeting::FirstToSecond,
                (true, false) => Meeting::FirstToSecond,
                (true, true) | (false, true) => Meeting::SecondToFirst,
                (false, false) => Meeting::Refused,
            },
            (true, false) if whole(self) => Meeting::FirstToSecond,
            (false, true) if whole(other) => Meeting::SecondToFirst,
            (false, false) => Meeting::SplitBrain,
            _ => Meeting::Refused,
        };
        match direction {
            Meeting::FirstToSecond if other.primary => Meeting::Refused,
            Meeting::SecondToFirst if self.primary => Meeting::Refused,
            other => other,
        }
    }
}
