// SPDX-License-Identifier: Apache-2.0
//! Which path replication uses (R1: a broken path is left before anybody gives anything up), and
//! bringing StandAlone volumes back together.

use crate::effect::Effect;
use crate::state::Millis;
use crate::{Core, Mode, PREFERRED};
use provisioning_protocol::peer::Path;

/// Not more than one switch in this time.
const SWITCH_PAUSE_MS: u64 = 2_000;
/// Suspect with a path that seems well, and another one: try that after this long.
const TRY_OTHER_MS: u64 = 2_500;
/// Not more than one reconnect in this time.
const RECONNECT_MS: u64 = 3_000;

/// The path in force.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Paths {
    pub current: Path,
    switched_at: Option<Millis>,
    frozen_since: Option<Millis>,
}

impl Default for Paths {
    fn default() -> Self {
        Self { current: PREFERRED, switched_at: None, frozen_since: None }
    }
}

fn other(path: Path) -> Path {
    match path {
        Path::Cable => Path::Lan,
        Path::Lan => Path::Cable,
    }
}

impl Core {
    pub(crate) fn drive_paths(&mut self) {
        let paused = self.paths.switched_at.is_some_and(|at| self.now.since(at) < SWITCH_PAUSE_MS);
        if paused || self.mode == Mode::Boot {
            return;
        }
        if let Some(path) = self.better_path() {
            self.paths.current = path;
            self.paths.switched_at = Some(self.now);
            self.out.push(Effect::SwitchPath { path });
        }
    }

    fn better_path(&self) -> Option<Path> {
        let (now, heard_ms) = (self.now, self.config.heard_ms);
        let current = self.paths.current;
        let away = other(current);
        if !self.peer.mutual(now, heard_ms, away) {
            return None;
        }
        if !self.peer.mutual(now, heard_ms, current) {
            return Some(away);
        }
        let well_ms = self.peer.mutual_since(away).map_or(0, |since| now.since(since));
        if self.was_up {
            let back = away == PREFERRED && well_ms >= self.config.failback_ms;
            return back.then_some(away);
        }
        let tried = self.paths.switched_at.is_some_and(|at| at >= self.link_down_since);
        let stuck = now.since(self.link_down_since) >= TRY_OTHER_MS;
        (stuck && !tried && self.mode == Mode::Suspect).then_some(away)
    }

    /// StandAlone volumes do not come back by themselves, and a volume that is still frozen
    /// after the decision must be asked again.
    pub(crate) fn drive_reconnect(&mut self) {
        let Some(link) = self.link else { return };
        let frozen = link.frozen && self.mode == Mode::Solo && self.helpers.is_empty();
        if !frozen {
            self.paths.frozen_since = None;
        }
        let stuck = frozen && {
            let since = *self.paths.frozen_since.get_or_insert(self.now);
            self.now.since(since) >= RECONNECT_MS / 2
        };
        // Diverged: the one that goes on alone listens for one that gave its data up.
        let hopeless = link.split_brain && self.mode != Mode::Solo;
        let apart = link.stand_alone && !hopeless && !self.giving_way() && self.peer_may_connect();
        let due = self.reconnected_at.is_none_or(|at| self.now.since(at) >= RECONNECT_MS);
        if due && (apart || stuck) {
            self.reconnected_at = Some(self.now);
            self.out.push(Effect::Reconnect);
        }
    }

    /// Whether a connection would do good: not while a loser still holds frozen primaries, nor
    /// straight after giving way. Where neither has a vote, nobody can lose by it.
    fn peer_may_connect(&self) -> bool {
        let Some(peer) = self.facts().filter(|peer| peer.mutual) else { return false };
        match self.mode {
            Mode::Boot | Mode::Loser => false,
            Mode::Solo => !peer.votes && peer.released,
            Mode::Wait => {
                let free = !peer.votes && peer.released;
                peer.solo || peer.paired() || free || self.durable.in_sync.is_empty()
            }
            Mode::Pair | Mode::Suspect => true,
        }
    }
}
