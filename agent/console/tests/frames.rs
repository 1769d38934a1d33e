// SPDX-License-Identifier: Apache-2.0
//! Recorded frames: what the console shows in each situation, character for character.
//!
//! After a wanted change: `INSTA_UPDATE=always cargo test -p agent-console`, then read the diff.

mod common;

use agent_console::facts::{Facts, Sight};
use agent_console::screen::{Dialog, Event, Key, Screen, Task};
use agent_console::view::{Theme, view};
use common::{
    NOW_MS, but, diverged, draw, facts, facts_of, frozen, half_copied, new_server, overview, pair,
    vm, well,
};
use proptest::prelude::*;
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::Enrolment;

/// As many VMs as a large branch has.
fn eight() -> Facts {
    let names = [
        "parts-counter",
        "till",
        "workshop-planner",
        "dealer-gateway",
        "print-server",
        "diagnosis-terminal-server-hall-2",
        "telephone",
        "file-share",
    ];
    facts(but(|status| {
        let phases = [VmPhase::Healthy, VmPhase::Standby];
        let vms = names.iter().zip(phases.iter().cycle());
        status.server.vms = vms.map(|(name, phase)| vm(name, *phase)).collect();
    }))
}

#[test]
fn a_healthy_pair() {
    insta::assert_snapshot!(overview(facts(well())));
}

#[test]
fn a_healthy_pair_with_eight_machines() {
    insta::assert_snapshot!("eight_machines_80x24", overview(eight()));
    insta::assert_snapshot!("eight_machines_100x32", draw(&Screen::new(eight()), 100, 32));
}

#[test]
fn a_new_server_without_a_stick() {
    let mut status = new_server(Enrolment::NoClaim, "");
    status.hq_url.clear();
    insta::assert_snapshot!(overview(facts(status)));
}

#[test]
fn a_new_server_whose_claim_was_refused() {
    let error = "Claim code refused (bad_claim, HTTP 403): it was used already";
    insta::assert_snapshot!(overview(facts(new_server(Enrolment::Refused, error))));
}

#[test]
fn a_new_server_that_waits_for_approval() {
    insta::assert_snapshot!(overview(facts(new_server(Enrolment::Pending, ""))));
}

#[test]
fn a_new_server_behind_a_proxy_that_opens_tls() {
    let error = "error sending request: invalid peer certificate: UnknownIssuer";
    insta::assert_snapshot!(overview(facts(new_server(Enrolment::Asking, error))));
}

#[test]
fn a_frozen_server() {
    insta::assert_snapshot!(overview(facts(frozen())));
}

#[test]
fn a_server_that_carries_on_alone() {
    insta::assert_snapshot!(overview(facts(but(|status| {
        status.server.pair = pair(PeerState::Solo);
        status.server.pair.cause = "Going on alone; the other server's VMs start here once its watchdog must have stopped them.".into();
        status.peer.as_mut().unwrap().age_ms = 754_000;
    }))));
}

#[test]
fn a_server_that_waits_for_its_peer() {
    insta::assert_snapshot!(overview(facts(but(|status| {
        status.server.pair = pair(PeerState::Wait);
        status.server.pair.cause = "Out of sync: waiting for the other server.".into();
        status.server.vms[0].phase = VmPhase::Standby;
        status.peer = None;
    }))));
}

#[test]
fn a_pair_that_catches_up_over_the_lan() {
    insta::assert_snapshot!(overview(facts(but(|status| {
        status.server.pair = pair(PeerState::Resync);
        status.server.pair.paths = [Path::Lan].into();
        status.server.pair.replication = Some(Path::Lan);
        status.server.pair.resync_percent = Some(42);
        status.server.pair.cause =
            "Connected again; the volumes are being brought up to date.".into();
    }))));
}

#[test]
fn headquarters_out_of_reach() {
    insta::assert_snapshot!(overview(facts(but(|status| {
        status.hq_error = "tcp connect error: Connection timed out (os error 110)".into();
        status.hq_contact_age_s = Some(90_000);
    }))));
}

#[test]
fn an_agent_that_never_started() {
    insta::assert_snapshot!(overview(facts_of(Sight::Never)));
}

#[test]
fn an_agent_that_fell_silent() {
    insta::assert_snapshot!(overview(facts(but(|s| s.written_boot_ms = NOW_MS - 190_000))));
}

#[test]
fn a_status_that_is_garbage() {
    let sight = Sight::Unreadable("expected value at line 1 column 1".into());
    insta::assert_snapshot!(overview(facts_of(sight)));
}

#[test]
fn the_other_pages() {
    let mut screen = Screen::new(facts(well()));
    screen.step(Event::Key(Key::Char('2')));
    insta::assert_snapshot!("page_events", draw(&screen, 80, 24));
    screen.step(Event::Key(Key::F(3)));
    insta::assert_snapshot!("page_hardware", draw(&screen, 80, 24));
    screen.step(Event::Key(Key::Char('4')));
    insta::assert_snapshot!("page_machines", draw(&screen, 80, 24));
}

#[test]
fn the_dialog_that_declares_the_other_server_off() {
    let mut screen = Screen::new(facts(frozen()));
    for c in "dno power at all".chars() {
        screen.step(Event::Key(Key::Char(c)));
    }
    screen.step(Event::Key(Key::Enter));
    insta::assert_snapshot!("declare_confirm", draw(&screen, 80, 24));
}

#[test]
fn the_older_data_dialog() {
    let mut screen = Screen::new(facts(half_copied()));
    insta::assert_snapshot!("a_half_copied_server", draw(&screen, 80, 24));
    for c in "oserver B burnt".chars() {
        screen.step(Event::Key(Key::Char(c)));
    }
    screen.step(Event::Key(Key::Enter));
    insta::assert_snapshot!("older_data_confirm", draw(&screen, 80, 24));
}

#[test]
fn the_dialog_that_gives_data_up() {
    let mut screen = Screen::new(facts(diverged()));
    insta::assert_snapshot!("diverged", draw(&screen, 80, 24));
    for c in "gHQ says that A counts".chars() {
        screen.step(Event::Key(Key::Char(c)));
    }
    screen.step(Event::Key(Key::Enter));
    insta::assert_snapshot!("give_up_confirm", draw(&screen, 80, 24));
}

#[test]
fn the_reboot_dialog() {
    let mut screen = Screen::new(facts(well()));
    let keys = |screen: &mut Screen, text: &str| {
        text.chars().for_each(|c| {
            screen.step(Event::Key(Key::Char(c)));
        });
    };
    keys(&mut screen, "pnew power supply");
    insta::assert_snapshot!("reboot_reason", draw(&screen, 80, 24));
    screen.step(Event::Key(Key::Enter));
    keys(&mut screen, "REBO");
    insta::assert_snapshot!("reboot_confirm", draw(&screen, 80, 24));
    screen.facts = facts(but(|status| status.server.pair = pair(PeerState::Solo)));
    insta::assert_snapshot!("reboot_confirm_alone", draw(&screen, 80, 24));
}

#[test]
fn a_long_page_says_how_much_is_below_and_stops_at_its_end() {
    let mut screen = Screen::new(facts(but(|status| {
        let event = status.events[0].clone();
        status.events = vec![event; 20];
    })));
    screen.step(Event::Key(Key::Char('2')));
    assert!(draw(&screen, 80, 24).contains("(22 more lines; Down)"), "{}", draw(&screen, 80, 24));
    for _ in 0..2_000 {
        screen.step(Event::Key(Key::Down));
    }
    assert!(draw(&screen, 80, 24).contains("(end; Up for more)"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the files say and however small the terminal: no panic, no byte that a terminal
    /// would obey.
    #[test]
    fn no_text_in_a_file_can_reach_the_terminal_unneutralized(
        texts in proptest::collection::vec("\\PC{0,40}|[\u{0}-\u{2ff}]{0,900}|\u{1b}\\[[0-9;]*[a-zA-Z]", 9),
        columns in 1u16..140,
        rows in 1u16..50,
        page in 0usize..4,
        percent in proptest::option::of(any::<u8>()),
        age in proptest::option::of(any::<u64>()),
        written in any::<u64>(),
    ) {
        let mut status = but(|status| {
            status.serial.clone_from(&texts[0]);
            status.hq_url.clone_from(&texts[1]);
            status.hq_error.clone_from(&texts[2]);
            status.server.pair.cause.clone_from(&texts[3]);
            status.events[0].text.clone_from(&texts[4]);
            status.events[0].at_ms = written;
            status.disks[0].clone_from(&texts[5]);
            status.server.problems.push(texts[6].clone());
            status.server.vms[0].detail.clone_from(&texts[7]);
            status.server.agent.clone_from(&texts[8]);
            status.server.pair.resync_percent = percent;
            status.hq_contact_age_s = age;
        });
        if percent.is_some() {
            status.written_boot_ms = written;
        }
        let mut screen = Screen::new(facts(status));
        screen.page = agent_console::screen::Page::ALL[page];
        if age.is_some_and(|age| age % 3 == 0) {
            screen.dialog = Some(Dialog::Confirm {
                task: Task::DeclarePeerOff,
                reason: "r".repeat(100),
                typed: String::new(),
            });
        }
        for theme in [Theme::PLAIN, Theme { lines: true, colour: true }] {
            let frame = view(&screen, theme, columns, rows);
            for cell in &frame.content {
                let symbol = cell.symbol();
                let ascii = symbol.len() == 1 && symbol.bytes().all(|b| (b' '..=b'~').contains(&b));
                prop_assert!(ascii || (theme.lines && symbol == "─"), "{symbol:?}");
            }
        }
    }
}
