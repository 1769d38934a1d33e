// SPDX-License-Identifier: Apache-2.0
//! What must hold after every step, in release too (ha.md 5.4). A breach stops the agent: its
//! volumes stay frozen, and a fresh start reads the truth from disk.

use crate::authority::Authority;
use crate::effect::Effect;
use crate::{Core, DurableState};

impl Core {
    pub(crate) fn check_invariants(&self) {
        self.check_state(&self.durable);
        if let Some(pending) = &self.pending {
            self.check_state(&pending.state);
            assert!(pending.state.epoch >= self.durable.epoch, "I5: an epoch went back");
        }
        for effect in &self.out {
            self.check_effect(effect);
        }
    }

    fn check_state(&self, state: &DurableState) {
        assert_eq!(state.node, self.config.slot, "state of another server");
        let alone = state.in_sync.len() == 1 && state.votes();
        assert_eq!(state.solo, alone, "alone in the set means SOLO, and the other way round");
    }

    fn check_effect(&self, effect: &Effect) {
        match effect {
            Effect::AnswerHelper { code, .. } if code.thaws() => {
                assert!(self.solo_in_force(), "I2: exit 4 or 7 without a durable grant");
            }
            Effect::Promote { vm } | Effect::StartVm { vm, .. } => {
                assert!(self.is_mine(vm), "I4: started what is not this server's");
                assert_eq!(self.authority(), Authority::Full, "I2/I4: started without the right");
            }
            Effect::ResumeVm { .. } => {
                assert_ne!(self.authority(), Authority::Hold, "I4: resumed without the right");
            }
            Effect::FencePeer { .. } | Effect::PowerOnPeer => {
                assert!(self.solo_in_force(), "R7: the peer's power without a durable grant");
            }
            Effect::Evict { .. } => {
                assert!(self.helpers.is_empty(), "eviction with a helper outstanding");
            }
            _ => {}
        }
    }
}
