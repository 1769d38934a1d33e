// SPDX-License-Identifier: Apache-2.0
//! The flap guard (rule R12): a peer that leaves again and again without a word is brought up to date,
//! but for a while it is not counted in sync. Then its next departure freezes nothing and moves
//! nothing: the survivor goes on alone, as it already does.

use crate::Core;
use crate::state::Millis;
use std::collections::VecDeque;

/// When the peer left, and until when it is not taken back.
#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Flaps {
    left_at: VecDeque<Millis>,
    until: Option<Millis>,
}

impl Core {
    /// This server had to go on alone without its peer's consent.
    pub(crate) fn note_departure(&mut self) {
        let (now, most) = (self.now, self.config.flap_count);
        let left = &mut self.flaps.left_at;
        left.push_back(now);
        while left.front().is_some_and(|at| now.since(*at) > self.config.flap_window_ms) {
            left.pop_front();
        }
        if left.len() >= most {
            left.clear();
            self.flaps.until = Some(Millis(now.0.saturating_add(self.config.flap_guard_ms)));
        }
    }

    /// Whether a survivor keeps its peer out of the in-sync set for now.
    pub(crate) fn flap_guarded(&self) -> bool {
        self.durable.solo && self.flaps.until.is_some_and(|until| self.now < until)
    }
}
