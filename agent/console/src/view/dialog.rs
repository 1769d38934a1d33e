// SPDX-License-Identifier: Apache-2.0
//! The dialogs: why, what it means, and the words that do it.

use super::Row;
use crate::facts::Facts;
use crate::screen::{Dialog, REASON_CHARS, Task};
use crate::text::{clip, date_time, wrap};
use crate::words;
use provisioning_protocol::peer::PeerState;

/// The body while a dialog is open.
pub(super) fn rows(dialog: &Dialog, facts: &Facts, width: usize) -> Vec<Row> {
    let mut rows = vec![Row::blank()];
    match dialog {
        Dialog::Note(text) => {
            rows.extend(wrap(text.as_str(), width.saturating_sub(3), 6).iter().map(line));
        }
        Dialog::Reason { task, typed } => {
            rows.extend([Row::bold(title(*task)), Row::blank()]);
            rows.extend(consequence(*task, facts, width));
            rows.extend([
                Row::blank(),
                Row::plain(format!(
                    " Why? At least {} characters; kept on this server.",
                    REASON_CHARS.start()
                )),
                field(typed, width),
            ]);
        }
        Dialog::Confirm { task, reason, typed } => {
            rows.extend([Row::bold(title(*task)), Row::blank()]);
            rows.extend(consequence(*task, facts, width));
            rows.extend([
                Row::blank(),
                Row::plain(clip(&format!(" Reason: {reason}"), width)),
                Row::blank(),
                Row::plain(prompt(*task)),
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

fn title(task: Task) -> &'static str {
    match task {
        Task::Reboot => " Reboot this server",
        Task::DeclarePeerOff => " Say that the other server is off",
        Task::UseOlderData => " Go on with older data",
        Task::GiveUpData => " Give up what this server holds",
    }
}

fn prompt(task: Task) -> String {
    let then = match task {
        Task::Reboot => "to reboot now",
        Task::DeclarePeerOff | Task::UseOlderData => "to go on alone",
        Task::GiveUpData => "to have it copied anew",
    };
    format!(" Type {} and press Enter {then}.", task.confirm_words())
}

fn consequence(task: Task, facts: &Facts, width: usize) -> Vec<Row> {
    let text = match task {
        Task::Reboot => reboot_means(facts),
        Task::DeclarePeerOff => declaring_means(facts),
        Task::UseOlderData => older_means(facts),
        Task::GiveUpData => giving_up_means(facts),
    };
    wrap(&text, width.saturating_sub(3), 6).iter().map(line).collect()
}

/// What is known of the other server, and what must be true.
fn declaring_means(facts: &Facts) -> String {
    let other = facts.fresh().map_or("the other server".to_owned(), |s| words::other(s.slot));
    let heard = facts.fresh().map_or("", |status| words::heard(status.pair.heard));
    let capital = words::capital(&other);
    format!(
        "{capital} is {heard}. First switch {other} OFF, or pull all its network and direct cables, \
         and leave it so. If it still runs, its work and this server's work since now can no longer \
         be put together, and one of the two is lost."
    )
}

/// What is lost, and what must be true.
fn older_means(facts: &Facts) -> String {
    let status = facts.fresh();
    let other = status.map_or("the other server".to_owned(), |s| words::other(s.slot));
    let older = status.and_then(|status| status.older_data).unwrap_or_default();
    let vms = usize::try_from(older.vms).unwrap_or(usize::MAX);
    let vms = words::count(vms, "virtual machine goes", "virtual machines go");
    let when = match older.holds_ms {
        0 => "an earlier time that is not known".to_owned(),
        ms => date_time(ms),
    };
    format!(
        "{vms} back to {when}. What was written after that is on {other} alone, and is LOST by this. Do it \
         only if {other} is gone for good. First switch it OFF, or pull all its cables, and leave it \
         so: if it came back, its data and this server's could no longer be put together."
    )
}

/// What is lost, and what goes on.
fn giving_up_means(facts: &Facts) -> String {
    let status = facts.fresh();
    let other = status.map_or("the other server".to_owned(), |s| words::other(s.slot));
    let capital = words::capital(&other);
    format!(
        "Both servers went on by themselves, and their data can no longer be put together. {capital} goes \
         on. What was written HERE since they parted is LOST by this: virtual machines that run here \
         stop, and everything is copied from {other}. Ask headquarters which server to give up."
    )
}

/// What a reboot now means for the virtual machines.
fn reboot_means(facts: &Facts) -> String {
    match facts.fresh() {
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
    }
}
