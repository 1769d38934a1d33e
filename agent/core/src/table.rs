// SPDX-License-Identifier: Apache-2.0
//! The states and every change between them. Debug builds refuse a change that is not in here, and
//! the diagram in the operator's guide is drawn from it.

use crate::Mode;
use std::fmt::Write as _;

/// From, to, and why.
pub(crate) const CHANGES: &[(Mode, Mode, &str)] = &[
    (Mode::Boot, Mode::Pair, "connected, peer heard, in sync"),
    (Mode::Boot, Mode::Suspect, "has a vote, peer not there"),
    (Mode::Boot, Mode::Solo, "goes on alone, agent restarted"),
    (Mode::Boot, Mode::Loser, "no vote, VMs left"),
    (Mode::Boot, Mode::Wait, "no vote, or looks around first"),
    (Mode::Pair, Mode::Suspect, "link lost"),
    (Mode::Pair, Mode::Solo, "peer gave way over a living link"),
    (Mode::Pair, Mode::Loser, "gave way, VMs left"),
    (Mode::Pair, Mode::Wait, "gave way, no VM here"),
    (Mode::Suspect, Mode::Pair, "link back, agreed"),
    (Mode::Suspect, Mode::Solo, "granted, held, declared, or peer gave way"),
    (Mode::Suspect, Mode::Loser, "the other goes on, VMs left"),
    (Mode::Suspect, Mode::Wait, "the other goes on, no VM here"),
    (Mode::Solo, Mode::Pair, "peer in sync again"),
    (Mode::Solo, Mode::Suspect, "link lost while taking the peer back"),
    (Mode::Solo, Mode::Loser, "peer ahead, VMs left"),
    (Mode::Solo, Mode::Wait, "peer ahead, no VM here"),
    (Mode::Loser, Mode::Wait, "VMs and volumes released"),
    (Mode::Loser, Mode::Pair, "taken back by the peer"),
    (Mode::Loser, Mode::Suspect, "taken back, link lost"),
    (Mode::Wait, Mode::Pair, "taken back by the peer"),
    (Mode::Wait, Mode::Solo, "looked around, nothing newer"),
    (Mode::Wait, Mode::Suspect, "taken back, link lost"),
    (Mode::Wait, Mode::Loser, "the kernel asks for a volume"),
];

/// Whether a server may go from one state to the other.
pub(crate) fn allowed(from: Mode, to: Mode) -> bool {
    from == to || CHANGES.iter().any(|(a, b, _)| (*a, *b) == (from, to))
}

/// The table as a Mermaid state diagram.
#[must_use]
pub fn diagram() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> BOOT\n");
    for (from, to, why) in CHANGES {
        let _ = writeln!(text, "    {} --> {}: {why}", word(*from), word(*to));
    }
    text
}

fn word(mode: Mode) -> String {
    format!("{mode:?}").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::{CHANGES, allowed, diagram};
    use crate::Mode;

    #[test]
    fn each_change_is_there_once_and_nothing_goes_back_to_boot() {
        for (at, (from, to, _)) in CHANGES.iter().enumerate() {
            assert_ne!(from, to);
            assert_ne!(*to, Mode::Boot);
            assert!(!CHANGES[..at].iter().any(|(a, b, _)| (a, b) == (from, to)), "{from:?} {to:?}");
        }
        assert!(!allowed(Mode::Loser, Mode::Solo), "a loser never goes on alone at once");
    }

    #[test]
    fn the_operators_guide_shows_this_table() {
        let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failover.md");
        let guide = std::fs::read_to_string(guide).expect("the guide can be read");
        let block = format!("```mermaid\n{}```\n", diagram());
        assert!(guide.contains(&block), "docs/failover.md should hold:\n{block}");
    }
}
