// SPDX-License-Identifier: Apache-2.0
//! "What to do now" in each situation.

mod common;

use agent_console::advice::{Advice, Code, Level, advice};
use agent_console::facts::Sight;
use common::{NOW_MS, but, facts, facts_of, facts_on, machine, new_server, pair, vm, well};
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::{Enrolment, LocalStatus};

fn told(status: LocalStatus) -> Advice {
    advice(&facts(status))
}

#[track_caller]
fn expect(advice: &Advice, level: Level, code: Code, words: &[&str]) {
    assert_eq!((advice.level, advice.code), (level, code), "{}", advice.text);
    for word in words {
        assert!(advice.text.contains(word), "no {word:?} in {:?}", advice.text);
    }
}

fn in_state(state: PeerState) -> LocalStatus {
    but(|status| {
        status.server.pair = pair(state);
        status.server.pair.cause = "peer lost at 09:40:58".into();
    })
}

#[test]
fn all_well_asks_for_nothing() {
    expect(&told(well()), Level::Well, Code::Well, &["Nothing. All is well."]);
}

#[test]
fn a_server_just_switched_on_asks_for_patience_and_later_for_help() {
    let young = agent_console::machine::Machine { boot_ms: 20_000, ..machine() };
    let advice_for = |machine| advice(&agent_console::facts::Facts::new(Sight::Never, "", machine));
    expect(&advice_for(&young), Level::Wait, Code::Starting, &["Wait"]);
    expect(&advice_for(&machine()), Level::Alarm, Code::AgentNever, &["Press p", "headquarters"]);
}

#[test]
fn a_silent_agent_is_told_apart_from_a_hung_one() {
    let status = but(|status| status.written_boot_ms = NOW_MS - 20_000);
    expect(
        &told(status),
        Level::Wait,
        Code::AgentSilent,
        &["hangs", "The virtual machine here runs on"],
    );
    let status = but(|status| status.written_boot_ms = NOW_MS - 200_000);
    let stopped = agent_console::machine::Machine { agent_process: Some(false), ..machine() };
    let advice = advice(&facts_on(status, &stopped));
    expect(&advice, Level::Alarm, Code::AgentSilent, &["not been running for 3 min", "press p"]);
}

#[test]
fn five_seconds_of_silence_are_forgiven_and_six_are_not() {
    let at = |ms| told(but(|status| status.written_boot_ms = NOW_MS - ms)).code;
    assert_eq!((at(5_000), at(5_001)), (Code::Well, Code::AgentSilent));
}

#[test]
fn a_status_from_the_future_is_not_believed() {
    let status = but(|status| status.written_boot_ms = u64::MAX);
    assert_eq!(told(status).code, Code::AgentSilent);
}

#[test]
fn a_status_that_cannot_be_used_says_why() {
    let facts = facts_of(Sight::Unreadable("it is longer than 256 KiB".into()));
    expect(&advice(&facts), Level::Alarm, Code::StatusUnreadable, &["longer than 256 KiB"]);
}

#[test]
fn each_stage_of_enrolment_has_its_sentence() {
    let at = |enrolment, error| told(new_server(enrolment, error));
    expect(&at(Enrolment::NoClaim, ""), Level::Act, Code::NoClaim, &["USB stick", "FORECOURT"]);
    let spoilt = at(Enrolment::NoClaim, "The claim stick holds no claim.txt");
    expect(&spoilt, Level::Act, Code::NoClaim, &["stick in order", "holds no claim.txt"]);
    let none = at(Enrolment::NoClaim, "No claim stick found; plug in the USB stick");
    expect(&none, Level::Act, Code::NoClaim, &["Plug in the USB stick labelled FORECOURT"]);
    expect(&at(Enrolment::Asking, ""), Level::Wait, Code::Asking, &["Wait"]);
    expect(&at(Enrolment::Pending, ""), Level::Act, Code::ClaimPending, &["fingerprint"]);
    let refused = at(Enrolment::Refused, "the claim code was used already.");
    expect(&refused, Level::Act, Code::ClaimRefused, &["used already. Ask them for a new stick"]);
}

#[test]
fn the_first_broken_step_on_the_way_to_headquarters_is_named() {
    let asking = |error: &str| new_server(Enrolment::Asking, error);
    let expect = |error: &str, code, word: &str| {
        expect(&told(asking(error)), Level::Act, code, &[word]);
    };
    expect("invalid peer certificate: UnknownIssuer", Code::HqTls, "exempt");
    expect("invalid peer certificate: NotValidYet", Code::HqClock, "2026-11-22 09:41");
    expect("dns error: failed to lookup address", Code::HqName, "Check DNS");
    expect("tcp connect error: Connection refused", Code::HqUnreachable, "internet connection");
    expect("HQ refused: unknown server (unknown_device, HTTP 403)", Code::HqRefused, "Call");
    expect(
        "https://hq answered with a certificate of another CA (CN=Proxy). Is something intercepting?",
        Code::HqTls,
        "exempt https://hq.example:443",
    );

    let mut unplugged = machine();
    unplugged.nics[0].link = false;
    let advice_unplugged = advice(&facts_on(asking("connection timed out"), &unplugged));
    assert_eq!(advice_unplugged.code, Code::NoLanLink, "{}", advice_unplugged.text);
    assert!(advice_unplugged.text.contains("eno1"));

    let mut without_dhcp = machine();
    without_dhcp.nics[0].addresses.clear();
    let mut status = asking("network is unreachable");
    status.server.lan_addresses.clear();
    assert_eq!(advice(&facts_on(status, &without_dhcp)).code, Code::NoLanAddress);
}

#[test]
fn a_wan_outage_is_reported_only_when_it_lasts() {
    let outage = |age_s| {
        told(but(|status| {
            status.hq_error = "connection timed out".into();
            status.hq_contact_age_s = age_s;
        }))
    };
    assert_eq!(outage(Some(30)).code, Code::Well);
    expect(&outage(Some(900)), Level::Act, Code::HqUnreachable, &["Virtual machines run on"]);
    assert_eq!(outage(None).code, Code::HqUnreachable);
}

#[test]
fn a_disk_with_data_on_it_is_never_to_be_wiped_lightly() {
    let left = "Disk /dev/sdb S1 is not blank and was left alone (holds ntfs)";
    let mut status = new_server(Enrolment::Done, "");
    status.server.problems = vec![left.into(), "No blank disk for VMs found: add one".into()];
    expect(&told(status), Level::Act, Code::Disk, &["Put in an empty data disk", "ntfs"]);
    let beside = told(but(|status| status.server.problems.push(left.into())));
    expect(&beside, Level::Act, Code::Disk, &["left alone (holds ntfs)"]);
    let mut bare = new_server(Enrolment::Done, "");
    bare.server.problems = vec!["No blank disk for VMs found: add one".into()];
    expect(&told(bare), Level::Act, Code::Disk, &["Put in an empty data disk"]);
}

#[test]
fn each_state_of_the_pair_has_its_sentence() {
    let at = |state| told(in_state(state));
    expect(&at(PeerState::Loser), Level::Wait, Code::StoodDown, &["Server B carries on"]);
    expect(&at(PeerState::Solo), Level::Act, Code::Alone, &["Look after server B"]);
    let mut waits = in_state(PeerState::Solo);
    waits.server.vms[0].phase = VmPhase::Standby;
    expect(&told(waits), Level::Alarm, Code::Alone, &["see that server B is off and press d"]);
    expect(&at(PeerState::Resync), Level::Wait, Code::CatchingUp, &["switch neither server off"]);
    expect(&at(PeerState::Maint), Level::Wait, Code::Maintenance, &["maintenance"]);
    expect(&at(PeerState::Boot), Level::Wait, Code::Starting, &["Wait"]);
}

#[test]
fn a_frozen_server_says_what_would_end_it() {
    let at = |state, cause: &str| {
        told(but(|status| {
            status.server.pair = pair(state);
            status.server.pair.cause = cause.into();
        }))
    };
    let frozen = |cause, words: &[&str]| {
        expect(&at(PeerState::Suspect, cause), Level::Alarm, Code::Frozen, words);
    };
    frozen("", &["Wait a minute", "switch nothing off"]);
    frozen("The other server is lost; asking the witness at HQ.", &["Wait a minute", "asking"]);
    frozen(
        "Frozen: the other server is lost and the witness at HQ does not answer.",
        &["Switch on server B", "internet connection"],
    );
    frozen(
        "Frozen: this server's disks are not whole, so it may not go on alone.",
        &["Switch on server B", "disks are not whole"],
    );
    frozen(
        "Stopped: the data on the two servers has diverged; an operator must choose.",
        &["Call headquarters", "diverged"],
    );
    let waits = |cause, level, code, word: &str| {
        expect(&at(PeerState::Wait, cause), level, code, &[word]);
    };
    waits("Out of sync: waiting.", Level::Alarm, Code::Waiting, "Switch on server B");
    waits("New here: waiting to form a pair.", Level::Wait, Code::Waiting, "become a pair");
    waits("Connected: being brought up to date.", Level::Wait, Code::CatchingUp, "neither");
    waits(
        "Started as the recorded survivor: looking.",
        Level::Wait,
        Code::Waiting,
        "Wait a minute",
    );
}

#[test]
fn a_lost_path_names_the_cable_to_check() {
    let over = |path| told(but(|status| status.server.pair.paths = [path].into()));
    expect(&over(Path::Lan), Level::Act, Code::PathLost, &["direct cable", "eno2"]);
    expect(&over(Path::Cable), Level::Act, Code::PathLost, &["office network", "eno1"]);
}

#[test]
fn machines_that_do_not_run_come_before_what_only_lowers_protection() {
    let with = |phase, detail: &str| {
        told(but(|status| {
            let mut vm = vm("till", phase);
            vm.detail = detail.into();
            status.server.vms.push(vm);
            status.server.pair.paths = [Path::Lan].into();
        }))
    };
    let failed = with(VmPhase::Failed, "QEMU ended with status 1");
    expect(&failed, Level::Alarm, Code::VmFailed, &["till", "QEMU ended"]);
    expect(&with(VmPhase::Frozen, ""), Level::Alarm, Code::VmFrozen, &["till"]);
    assert_eq!(with(VmPhase::Fetching, "").code, Code::PathLost);
    let fetching = told(but(|status| {
        status.server.vms[0].phase = VmPhase::Fetching;
        status.server.vms[0].detail = "fetching template, 40 %".into();
    }));
    expect(&fetching, Level::Wait, Code::VmPreparing, &["Wait. parts-counter: fetching", "40 %"]);
}

#[test]
fn what_the_agent_finds_in_the_way_is_passed_on() {
    let status = but(|status| status.server.problems.push("The watchdog is missing.".into()));
    expect(&told(status), Level::Act, Code::Problem, &["The watchdog is missing."]);
    let unarmed = |state| {
        told(but(|status| {
            status.server.pair = pair(state);
            status.server.problems = vec!["The hardware watchdog is not armed (no device)".into()];
        }))
    };
    assert_eq!(unarmed(PeerState::Boot).code, Code::Starting, "nothing runs yet");
    assert_eq!(unarmed(PeerState::Pair).code, Code::Problem);
    let waning = but(|status| {
        status.hq_error = "HQ at https://hq.example:443 cannot be reached: timed out".into();
        status.hq_contact_age_s = Some(20);
        status.server.problems.push(status.hq_error.clone());
        status.server.problems.push("The witness at HQ does not answer.".into());
    });
    assert_eq!(told(waning).code, Code::Well, "a short silence of HQ is no one's business");
    let status = but(|status| status.clock_trusted = false);
    expect(&told(status), Level::Wait, Code::ClockUntrusted, &["clock"]);
}

#[test]
fn every_code_is_its_own_and_is_explained_in_the_operators_guide() {
    let guide = include_str!("../../../docs/operator.md");
    let mut seen = std::collections::BTreeSet::new();
    for code in Code::ALL {
        assert!(seen.insert(code.id()), "{} stands for two things", code.id());
        assert!(guide.contains(&format!("| {} |", code.id())), "{} is not in the guide", code.id());
    }
}
