// SPDX-License-Identifier: Apache-2.0
//! The console as a state machine: events in, actions out.
//!
//! ```text
//!  Overview <-> Events <-> Hardware <-> Machines      1 2 3 4, F1..F4
//!      ^
//!      | Esc, or nobody there for a while
//!      |
//!  p -> Reason ("why?") --Enter--> Confirm (type REBOOT) --Enter--> Action::Reboot
//!  d -> Reason ("why?") --Enter--> Confirm (type OTHER SERVER IS OFF) --Enter--> Action::DeclarePeerOff
//!       (only while the pair is frozen or waits)
//!  o -> Reason ("why?") --Enter--> Confirm (type GO ON WITH OLDER DATA) --Enter--> Action::UseOlderData
//!       (only while it waits, half copied, and whole copies from before are kept)
//!  g -> Reason ("why?") --Enter--> Confirm (type GIVE UP DATA OF THIS SERVER) --Enter--> Action::GiveUpData
//!       (only while the data of the two differs, and the other one goes on alone)
//! ```

use crate::facts::{Facts, Status};
use crate::text::Clean;
use provisioning_protocol::peer::PeerState;

/// A dialog left alone for so long is closed.
pub const DIALOG_IDLE_S: u32 = 120;
/// A page left alone for so long gives way to the overview.
pub const PAGE_IDLE_S: u32 = 600;
/// Shortest reason that says anything, and longest that is kept.
pub const REASON_CHARS: std::ops::RangeInclusive<usize> = 4..=100;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Everything at a glance.
    Overview,
    /// What happened.
    Events,
    /// Disks and network cards.
    Hardware,
    /// All virtual machines.
    Machines,
}

impl Page {
    /// All pages, in the order of their keys.
    pub const ALL: [Self; 4] = [Self::Overview, Self::Events, Self::Hardware, Self::Machines];

    /// Its name on the key line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Events => "Events",
            Self::Hardware => "Disks+network",
            Self::Machines => "VMs",
        }
    }
}

/// What a dialog is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Reboot this server.
    Reboot,
    /// Say that the other server is off, so that this one goes on alone.
    DeclarePeerOff,
    /// Go on with the whole copies from before a resync that did not end.
    UseOlderData,
    /// Give up what this server holds for what the other one does.
    GiveUpData,
}

impl Task {
    /// The words that confirm it.
    #[must_use]
    pub fn confirm_words(self) -> &'static str {
        match self {
            Self::Reboot => "REBOOT",
            Self::DeclarePeerOff => "OTHER SERVER IS OFF",
            Self::UseOlderData => "GO ON WITH OLDER DATA",
            Self::GiveUpData => "GIVE UP DATA OF THIS SERVER",
        }
    }

    fn action(self, reason: String) -> Action {
        match self {
            Self::Reboot => Action::Reboot { reason },
            Self::DeclarePeerOff => Action::DeclarePeerOff { reason },
            Self::UseOlderData => Action::UseOlderData { reason },
            Self::GiveUpData => Action::GiveUpData { reason },
        }
    }
}

/// Something with consequences that is being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialog {
    /// The reason is being typed.
    Reason {
        /// For what.
        task: Task,
        /// So far.
        typed: String,
    },
    /// The words are being typed.
    Confirm {
        /// For what.
        task: Task,
        /// The reason given.
        reason: String,
        /// So far.
        typed: String,
    },
    /// What came of it; any key closes it.
    Note(Clean),
}

/// A key, as far as the console knows keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Function key.
    F(u8),
    /// Return.
    Enter,
    /// Escape.
    Escape,
    /// Backspace or delete.
    Backspace,
    /// Towards older or further down.
    Down,
    /// Towards newer or further up.
    Up,
    /// Anything else: it counts as a sign of life only.
    Other,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// The facts were read anew.
    Facts(Box<Facts>),
    /// A second went by.
    Second,
    /// An action was carried out, or not.
    Done(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send the whole screen again.
    Repaint,
    /// Write down the reason and reboot.
    Reboot {
        /// Why, as typed.
        reason: String,
    },
    /// Write down the reason and tell the agent that the other server is off.
    DeclarePeerOff {
        /// Why, as typed.
        reason: String,
    },
    /// Write down the reason and tell the agent to go on with older data.
    UseOlderData {
        /// Why, as typed.
        reason: String,
    },
    /// Write down the reason and tell the agent to give up what this server holds.
    GiveUpData {
        /// Why, as typed.
        reason: String,
    },
}

/// The console's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// What is looked at.
    pub page: Page,
    /// Lines scrolled down on it.
    pub scroll: usize,
    /// The dialog over it.
    pub dialog: Option<Dialog>,
    /// What is known.
    pub facts: Facts,
    idle_s: u32,
}

impl Screen {
    /// The overview.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        Self { page: Page::Overview, scroll: 0, dialog: None, facts, idle_s: 0 }
    }

    /// Takes an event and says what is to be done.
    pub fn step(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Facts(facts) => {
                self.facts = *facts;
                None
            }
            Event::Second => {
                self.second();
                None
            }
            Event::Done(text) => {
                self.dialog = Some(Dialog::Note(Clean::new(&text)));
                None
            }
            Event::Key(key) => {
                self.idle_s = 0;
                match self.dialog.take() {
                    Some(dialog) => self.dialog_key(dialog, key),
                    None => self.page_key(key),
                }
            }
        }
    }

    fn second(&mut self) {
        self.idle_s = self.idle_s.saturating_add(1);
        if self.idle_s >= DIALOG_IDLE_S {
            self.dialog = None;
        }
        if self.idle_s >= PAGE_IDLE_S {
            self.open(Page::Overview);
        }
    }

    fn open(&mut self, page: Page) {
        self.page = page;
        self.scroll = 0;
    }

    fn page_key(&mut self, key: Key) -> Option<Action> {
        let by_number = |number: u32| {
            let index = usize::try_from(number).ok()?.checked_sub(1)?;
            Page::ALL.get(index).copied()
        };
        match key {
            Key::Char('p' | 'P') => self.ask(Task::Reboot),
            Key::Char('d' | 'D') if self.may_declare() => self.ask(Task::DeclarePeerOff),
            Key::Char('o' | 'O') if self.may_use_older() => self.ask(Task::UseOlderData),
            Key::Char('g' | 'G') if self.may_give_up() => self.ask(Task::GiveUpData),
            Key::Char('r' | 'R') | Key::Enter => return Some(Action::Repaint),
            Key::Char('j') | Key::Down => self.scroll = self.scroll.saturating_add(1).min(1000),
            Key::Char('k') | Key::Up => self.scroll = self.scroll.saturating_sub(1),
            Key::Char(c) => {
                let page = c.to_digit(10).and_then(by_number);
                page.into_iter().for_each(|page| self.open(page));
            }
            Key::F(n) => {
                let page = by_number(n.into());
                page.into_iter().for_each(|page| self.open(page));
            }
            Key::Escape => self.open(Page::Overview),
            Key::Backspace | Key::Other => (),
        }
        None
    }

    fn ask(&mut self, task: Task) {
        self.dialog = Some(Dialog::Reason { task, typed: String::new() });
    }

    /// Whether a word about the other server could change anything.
    #[must_use]
    pub fn may_declare(&self) -> bool {
        self.facts.fresh().is_some_and(|status| match status.pair.state {
            PeerState::Suspect | PeerState::Wait => true,
            _ => status.waits_for_the_others_vms(),
        })
    }

    /// Whether this server could go on with older data, and with nothing else.
    #[must_use]
    pub fn may_use_older(&self) -> bool {
        let offered = |status: &Status| status.older_data.is_some();
        self.may_declare() && self.facts.fresh().is_some_and(offered)
    }

    /// Whether a person could choose the other server's data here.
    #[must_use]
    pub fn may_give_up(&self) -> bool {
        self.facts.fresh().is_some_and(|status| status.diverged)
    }

    fn dialog_key(&mut self, dialog: Dialog, key: Key) -> Option<Action> {
        if matches!(dialog, Dialog::Note(_)) || key == Key::Escape {
            return None;
        }
        match dialog {
            Dialog::Reason { task, typed } if key == Key::Enter => {
                let reason = typed.trim().to_owned();
                self.dialog = Some(if REASON_CHARS.contains(&reason.len()) {
                    Dialog::Confirm { task, reason, typed: String::new() }
                } else {
                    Dialog::Reason { task, typed }
                });
            }
            Dialog::Confirm { task, reason, typed } if key == Key::Enter => {
                if typed.trim() == task.confirm_words() {
                    return Some(task.action(reason));
                }
                self.dialog = Some(Dialog::Confirm { task, reason, typed: String::new() });
            }
            Dialog::Reason { task, typed } => {
                let typed = edited(typed, key, *REASON_CHARS.end());
                self.dialog = Some(Dialog::Reason { task, typed });
            }
            Dialog::Confirm { task, reason, typed } => {
                let typed = edited(typed, key, task.confirm_words().len());
                self.dialog = Some(Dialog::Confirm { task, reason, typed });
            }
            Dialog::Note(_) => (),
        }
        None
    }
}

fn edited(mut typed: String, key: Key, max: usize) -> String {
    match key {
        Key::Backspace => {
            typed.pop();
        }
        Key::Char(c @ ' '..='~') if typed.len() < max => typed.push(c),
        _ => (),
    }
    typed
}
