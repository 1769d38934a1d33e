// SPDX-License-Identifier: Apache-2.0
//! The reboot dialog: why, what it means, and the word that does it.

use super::Row;
use crate::facts::Facts;
use crate::screen::{CONFIRM_WORD, Dialog, REASON_CHARS};
use crate::text::{clip, wrap};
use crate::words;
use provisioning_protocol::peer::PeerState;

/// The body while a dialog is open.
pub(super) fn rows(dialog: &Dialog, facts: &Facts, width: usize) -> Vec<Row> {
    let mut rows = vec![Row::blank()];
    match dialog {
        Dialog::Note(text) => {
            rows.extend(wrap(text.as_str(), width.saturating_sub(3), 6).iter().map(line));
        }
        Dialog::Reason { typed } => {
            rows.extend([Row::bold(" Reboot this server"), Row::blank()]);
            rows.extend(consequence(facts, width));
            rows.extend([
                Row::blank(),
                Row::plain(format!(
                    " Why? At least {} characters; kept on this server.",
                    REASON_CHARS.start()
                )),
                field(typed, width),
            ]);
        }
        Dialog::Confirm { reason, typed } => {
            rows.extend([Row::bold(" Reboot this server"), Row::blank()]);
            rows.extend(consequence(facts, width));
            rows.extend([
                Row::blank(),
                Row::plain(clip(&format!(" Reason: {reason}"), width)),
                Row::blank(),
                Row::plain(format!(" Type {CONFIRM_WORD} and press Enter to reboot now.")),
                field(typed, width),
            ]);
        }
    }
    rows
}

fn line(text: &String) -> Row {
    Row::plain(format!(" {text}"))
}

fn field(typed: &str, width: usize) -> Row {
    let room = width.saturating_sub(6);
    let tail = &typed[typed.len().saturating_sub(room)..];
    Row::bold(format!(" > {tail}_"))
}

/// What a reboot now means for the virtual machines.
fn consequence(facts: &Facts, width: usize) -> Vec<Row> {
    let text = match facts.fresh() {
        None => "The agent is silent: nobody can say what the other server will do. Virtual \
                 machines that run here stop."
            .to_owned(),
        Some(status) => {
            let other = words::capital(&words::other(status.slot));
            let here = status.vms.iter().filter(|vm| words::is_here(vm)).count();
            let here = words::count(here, "virtual machine", "virtual machines");
            match status.pair.state {
                PeerState::Pair => {
                    format!("{here} here will stop. {other} is up to date and can carry on.")
                }
                _ => format!(
                    "{here} here will stop. {other} CANNOT carry on now: the pair is not healthy."
                ),
            }
        }
    };
    wrap(&text, width.saturating_sub(3), 4).iter().map(line).collect()
}
