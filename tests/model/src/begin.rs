// SPDX-License-Identifier: Apache-2.0
//! What a behaviour begins with.

use crate::rules::{Begin, Mutation};
use crate::site::{Event, Site};
use agent_core::Tie;

/// A site that is not calm after so many rounds is broken.
const FORM_ROUNDS: u32 = 120;
/// A pair that has been well for so long has said all it has to say.
const CALM_ROUNDS: u32 = 40;

impl Site {
    /// The site to begin with.
    pub fn begun(begin: Begin, mutation: Option<Mutation>, faults: u8) -> Self {
        // A core is made with its times, and what a server has on disk comes from the witness it
        // asked; every other rule is broken only from here on.
        let early = [Mutation::IgnoreFence, Mutation::WrongWitness];
        let early = mutation.filter(|mutation| early.contains(mutation));
        let mut site = Self::new(early, faults, begin.has_box());
        (0..2).for_each(|node| site.power_on(node));
        site.make_volumes();
        site.drain();
        match begin {
            Begin::New | Begin::BoxNew => {}
            Begin::Pair | Begin::BoxPair => site.form(site.home_tie()),
            Begin::BoxNoHq => {
                site.form(Tie::Local);
                site.cut_hq();
                site.form(Tie::Local);
            }
            Begin::BoxBack => {
                site.form(Tie::Local);
                site.box_off(true);
                site.form(Tie::Hq);
                site.mend_box();
                site.await_move();
            }
        }
        site.hq.backup = site.hq.state.clone();
        if let Some(local) = &mut site.on_site {
            local.backup = local.state.clone();
        }
        site.zero = site.round;
        site.mutation = mutation;
        site
    }

    /// The servers become a healthy pair with its tie-break there.
    fn form(&mut self, tie: Tie) {
        self.calm();
        let end = self.round + FORM_ROUNDS;
        let mut well = 0;
        while well < CALM_ROUNDS {
            assert!(self.round < end, "no healthy pair to begin with: {}", self.states());
            self.next_round();
            self.calm();
            let told = (0..2).all(|node| {
                let disk = self.nodes[node].disk.as_ref();
                disk.is_some_and(|disk| disk.last_seen.is_some() && disk.peer_watchdog)
            });
            well = if self.healthy(tie) && told { well + 1 } else { 0 };
        }
    }

    /// Goes on to the round in which the tie-break begins to move.
    fn await_move(&mut self) {
        for _ in 0..FORM_ROUNDS {
            let before = self.clone();
            self.next_round();
            while !self.pending.is_empty() {
                if self.pending.iter().any(|event| matches!(event, Event::Persisted { .. })) {
                    *self = before;
                    return;
                }
                self.deliver(0);
            }
        }
        panic!("the tie-break does not move: {}", self.states());
    }

    /// Delivers what is on its way in the order it was sent.
    pub fn calm(&mut self) {
        self.drain();
        while !self.pending.is_empty() {
            self.deliver(0);
        }
    }
}
