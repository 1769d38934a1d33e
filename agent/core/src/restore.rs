// SPDX-License-Identifier: Apache-2.0
//! An operator's word that the site is to go on with older data: the other server was lost in the
//! middle of a resync onto this one, whose volumes are half copied, and a whole copy from before is
//! kept. What was written since is lost by this; only a person may want it.
//!
//! ```text
//! word ──► RestoreVolumes (put back, metadata fresh) ──► VolumesRestored ──► SOLO on disk ──► promote
//! ```
//! Until SOLO is on disk nothing is lost that the other server holds: should it come back, its copy is
//! taken whole. Only the promotion under that grant declares the older copy the newest.

use crate::effect::Effect;
use crate::settle::Reason;
use crate::state::{DurableState, Millis};
use crate::{Core, Disk, Mode};

/// Volumes that could not be acted on for this long after they were put back wait for another word.
const VALID_MS: u64 = 5_000;

/// How far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Restore {
    /// Nobody asked.
    #[default]
    None,
    /// The volumes are being put back.
    Ordered,
    /// They are.
    Done(Millis),
}

impl Core {
    /// Takes the word, or says why not.
    pub(crate) fn restore_asked(&mut self) {
        let half =
            self.link.is_some_and(|link| link.volumes > 0 && link.mine == Disk::Inconsistent);
        let refusal = match self.restore_block() {
            Some(text) => Some(text),
            None if self.restore == Restore::Ordered => Some("The volumes are being put back."),
            // Put back, and then not acted on: fresh metadata counts as half copied too.
            None if !half => Some("This server's disks are not half copied."),
            None => None,
        };
        match refusal {
            Some(text) => self.report("restore_refused", text.to_owned()),
            None => {
                self.restore = Restore::Ordered;
                self.out.push(Effect::RestoreVolumes);
            }
        }
    }

    /// The volumes were put back, or not (the shell says why).
    pub(crate) fn restored(&mut self, ok: bool) {
        if self.restore == Restore::Ordered {
            self.restore = if ok { Restore::Done(self.now) } else { Restore::None };
        }
    }

    fn restore_block(&self) -> Option<&'static str> {
        if self.durable.solo {
            return Some("This server goes on alone already.");
        }
        if self.facts().is_some() || self.was_up {
            return Some("The other server is heard: bring it back, it holds the newest data.");
        }
        if !matches!(self.mode, Mode::Suspect | Mode::Wait) {
            return Some(
                "This is possible only while this server is frozen or waits for the other.",
            );
        }
        if self.link.is_none_or(|link| link.split_brain) {
            return Some("The data on the two servers has diverged.");
        }
        if self.vms.here().next().is_some() || !self.helpers.is_empty() {
            return Some("A VM still has its volumes open here.");
        }
        None
    }

    pub(crate) fn go_on_as_restored(&mut self) -> bool {
        let Restore::Done(at) = self.restore else { return false };
        self.restore = Restore::None;
        if let Some(text) = self.restore_block() {
            self.report("restore_refused", text.to_owned());
            return false;
        }
        if self.now.since(at) >= VALID_MS {
            return false;
        }
        let epoch = self.next_epoch();
        let state = DurableState { override_: true, ..self.base(epoch, self.alone()) };
        self.persist(state, Reason::Restored);
        true
    }
}
