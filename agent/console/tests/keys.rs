// SPDX-License-Identifier: Apache-2.0
//! The console's state machine: which keys do what, and what no key can do.

mod common;

use agent_console::screen::{
    Action, DIALOG_IDLE_S, Dialog, Event, Key, PAGE_IDLE_S, Page, Screen, Task,
};
use common::{diverged, facts, frozen, half_copied, well};
use proptest::prelude::*;
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;

fn screen() -> Screen {
    Screen::new(facts(well()))
}

fn press(screen: &mut Screen, text: &str) -> Option<Action> {
    let key = |c| if c == '\n' { Key::Enter } else { Key::Char(c) };
    text.chars().fold(None, |_, c| screen.step(Event::Key(key(c))))
}

#[test]
fn digits_and_function_keys_open_pages_and_escape_goes_home() {
    let mut screen = screen();
    press(&mut screen, "3");
    assert_eq!(screen.page, Page::Hardware);
    screen.step(Event::Key(Key::F(2)));
    assert_eq!(screen.page, Page::Events);
    for nothing in [Key::F(9), Key::Char('9'), Key::Char('0'), Key::Other] {
        assert_eq!(screen.step(Event::Key(nothing)), None);
    }
    assert_eq!(screen.page, Page::Events);
    screen.step(Event::Key(Key::Escape));
    assert_eq!(screen.page, Page::Overview);
}

#[test]
fn a_reboot_needs_a_reason_and_the_word() {
    let mut screen = screen();
    let action = press(&mut screen, "pnew power supply\nREBOOT\n");
    assert_eq!(action, Some(Action::Reboot { reason: "new power supply".into() }));
    screen.step(Event::Done("The server is rebooting.".into()));
    assert!(matches!(screen.dialog, Some(Dialog::Note(_))));
}

#[test]
fn the_other_server_is_declared_off_only_while_frozen_and_in_the_full_words() {
    let mut healthy = screen();
    assert_eq!(press(&mut healthy, "d"), None);
    assert_eq!(healthy.dialog, None, "there is nothing to say in a healthy pair");
    let frozen = || Screen::new(facts(frozen()));
    let action = press(&mut frozen(), "dpulled its plug\nOTHER SERVER IS OFF\n");
    assert_eq!(action, Some(Action::DeclarePeerOff { reason: "pulled its plug".into() }));
    let alone = |phase| {
        let mut status = common::frozen();
        status.server.pair.state = PeerState::Solo;
        status.server.vms[0].phase = phase;
        Screen::new(facts(status))
    };
    assert_eq!(press(&mut alone(VmPhase::Healthy), "d"), None, "it runs already");
    let mut waits = alone(VmPhase::Standby);
    press(&mut waits, "d");
    assert!(waits.dialog.is_some(), "VMs of a server without a watchdog wait for a word");
    for keys in ["d\nOTHER SERVER IS OFF\n", "dreason\nREBOOT\n", "dreason\nother server is off\n"]
    {
        assert_eq!(press(&mut frozen(), keys), None, "{keys:?}");
    }
}

#[test]
fn older_data_is_gone_on_with_only_where_it_is_offered_and_in_the_full_words() {
    for nothing in [facts(well()), facts(frozen())] {
        let mut screen = Screen::new(nothing);
        assert_eq!(press(&mut screen, "o"), None);
        assert_eq!(screen.dialog, None, "there is no older data to go on with");
    }
    let half = || Screen::new(facts(half_copied()));
    let action = press(&mut half(), "oserver B burnt\nGO ON WITH OLDER DATA\n");
    assert_eq!(action, Some(Action::UseOlderData { reason: "server B burnt".into() }));
    for keys in ["o\nGO ON WITH OLDER DATA\n", "oreason\nOTHER SERVER IS OFF\n", "oreason\n\n"] {
        assert_eq!(press(&mut half(), keys), None, "{keys:?}");
    }
}

#[test]
fn data_is_given_up_only_where_it_differs_and_in_the_full_words() {
    for nothing in [facts(well()), facts(frozen()), facts(half_copied())] {
        let mut screen = Screen::new(nothing);
        assert_eq!(press(&mut screen, "g"), None);
        assert_eq!(screen.dialog, None, "there is nothing to choose");
    }
    let differs = || Screen::new(facts(diverged()));
    let action = press(&mut differs(), "gHQ says A counts\nGIVE UP DATA OF THIS SERVER\n");
    assert_eq!(action, Some(Action::GiveUpData { reason: "HQ says A counts".into() }));
    for keys in
        ["g\nGIVE UP DATA OF THIS SERVER\n", "greason\nGO ON WITH OLDER DATA\n", "greason\n\n"]
    {
        assert_eq!(press(&mut differs(), keys), None, "{keys:?}");
    }
}

#[test]
fn a_reboot_without_a_reason_or_with_another_word_does_not_happen() {
    for keys in
        ["p\nREBOOT\n", "p   \nREBOOT\n", "pabc\nREBOOT\n", "preason\nreboot\n", "preason\n\n"]
    {
        assert_eq!(press(&mut screen(), keys), None, "{keys:?}");
    }
}

#[test]
fn escape_or_an_absent_person_cancels_a_reboot() {
    let mut screen = screen();
    press(&mut screen, "preason\nREBOOT");
    screen.step(Event::Key(Key::Escape));
    assert_eq!(press(&mut screen, "\n"), Some(Action::Repaint));

    press(&mut screen, "preason\nREBOOT");
    for _ in 0..DIALOG_IDLE_S {
        screen.step(Event::Second);
    }
    assert_eq!(screen.dialog, None);
    assert_eq!(press(&mut screen, "\n"), Some(Action::Repaint));
}

#[test]
fn a_page_nobody_looks_at_gives_way_to_the_overview() {
    let mut screen = screen();
    press(&mut screen, "2");
    for _ in 0..PAGE_IDLE_S {
        screen.step(Event::Second);
    }
    assert_eq!(screen.page, Page::Overview);
}

#[test]
fn a_pasted_megabyte_is_kept_to_its_field() {
    let mut screen = screen();
    press(&mut screen, "p");
    press(&mut screen, &"x".repeat(1_000_000));
    assert!(matches!(&screen.dialog, Some(Dialog::Reason { typed, .. }) if typed.len() == 100));
}

#[test]
fn what_is_typed_is_kept_in_ascii() {
    let mut screen = screen();
    press(&mut screen, "pa\u{1b}\u{7}\u{202e}\u{f6}bc");
    assert_eq!(screen.dialog, Some(Dialog::Reason { task: Task::Reboot, typed: "abc".into() }));
}

proptest! {
    /// Line noise cannot reboot a server: without the word in one piece nothing happens.
    #[test]
    fn noise_does_not_reboot(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut screen = screen();
        let mut said = String::new();
        for byte in noise {
            let key = match byte {
                b'\r' => Key::Enter,
                0x1b => Key::Escape,
                0x7f => Key::Backspace,
                byte => Key::Char(char::from(byte)),
            };
            said.push(char::from(byte));
            let action = screen.step(Event::Key(key));
            if matches!(action, Some(Action::Reboot { .. })) {
                prop_assert!(Task::Reboot.confirm_words().chars().all(|c| said.contains(c)));
            }
        }
    }
}
