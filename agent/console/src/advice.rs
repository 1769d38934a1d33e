// SPDX-License-Identifier: Apache-2.0
//! "What to do now": from facts to one sentence, and a code to read out on the phone.
//!
//! The rules are tried in order; the first that has something to say wins. What stops virtual
//! machines comes before what stops enrolment, and that before what only lowers protection.

use crate::facts::{Agent, Facts, Status};
use crate::text::{Clean, span};
use crate::words;
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::report::VmPhase;
use provisioning_protocol::status::Enrolment;

/// HQ may be silent for so long before a person is told to look at the line.
const HQ_PATIENCE_S: u64 = 120;
/// Services have so long after power-on before silence counts.
const START_PATIENCE_S: u64 = 120;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Well,
    /// It settles by itself.
    Wait,
    /// Somebody should act; work goes on.
    Act,
    /// Work stands still.
    Alarm,
}

/// Stable codes; `docs/operator.md` lists each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the code's text is its documentation; docs/operator.md lists it")]
pub enum Code {
    Well,
    Starting,
    AgentNever,
    AgentSilent,
    StatusUnreadable,
    NoClaim,
    ClaimPending,
    ClaimRefused,
    Asking,
    NoLanLink,
    NoLanAddress,
    HqName,
    HqTls,
    HqClock,
    HqUnreachable,
    HqRefused,
    Disk,
    Frozen,
    Waiting,
    StoodDown,
    Diverged,
    Alone,
    CatchingUp,
    PathLost,
    Maintenance,
    VmFailed,
    VmFrozen,
    VmPreparing,
    ClockUntrusted,
    Problem,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 30] = [
        Self::Well,
        Self::Starting,
        Self::AgentNever,
        Self::AgentSilent,
        Self::StatusUnreadable,
        Self::NoClaim,
        Self::ClaimPending,
        Self::ClaimRefused,
        Self::Asking,
        Self::NoLanLink,
        Self::NoLanAddress,
        Self::HqName,
        Self::HqTls,
        Self::HqClock,
        Self::HqUnreachable,
        Self::HqRefused,
        Self::Disk,
        Self::Frozen,
        Self::Waiting,
        Self::StoodDown,
        Self::Diverged,
        Self::Alone,
        Self::CatchingUp,
        Self::PathLost,
        Self::Maintenance,
        Self::VmFailed,
        Self::VmFrozen,
        Self::VmPreparing,
        Self::ClockUntrusted,
        Self::Problem,
    ];

    /// What is read out on the phone.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Well => "F00",
            Self::Starting => "F01",
            Self::AgentNever => "F02",
            Self::AgentSilent => "F03",
            Self::StatusUnreadable => "F04",
            Self::NoClaim => "F10",
            Self::ClaimPending => "F11",
            Self::ClaimRefused => "F12",
            Self::Asking => "F13",
            Self::NoLanLink => "F20",
            Self::NoLanAddress => "F21",
            Self::HqName => "F22",
            Self::HqTls => "F23",
            Self::HqClock => "F24",
            Self::HqUnreachable => "F25",
            Self::ClockUntrusted => "F26",
            Self::HqRefused => "F27",
            Self::Disk => "F30",
            Self::Frozen => "F40",
            Self::Waiting => "F41",
            Self::StoodDown => "F42",
            Self::Alone => "F43",
            Self::CatchingUp => "F44",
            Self::PathLost => "F45",
            Self::Maintenance => "F46",
            Self::Diverged => "F47",
            Self::VmFailed => "F50",
            Self::VmFrozen => "F51",
            Self::VmPreparing => "F52",
            Self::Problem => "F60",
        }
    }
}

/// One sentence or two, and how much they matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// How much it matters.
    pub level: Level,
    /// The code.
    pub code: Code,
    /// What to do.
    pub text: String,
}

fn say(level: Level, code: Code, text: impl Into<String>) -> Option<Advice> {
    Some(Advice { level, code, text: text.into() })
}

/// What a person on site should do now.
#[must_use]
pub fn advice(facts: &Facts) -> Advice {
    let heard = agent(facts).or_else(|| {
        let status = facts.fresh()?;
        stopped(status)
            .or_else(|| enrolment(facts, status))
            .or_else(|| disk(status))
            .or_else(|| machines(status))
            .or_else(|| protection(facts, status))
            .or_else(|| headquarters(facts, status))
            .or_else(|| others(status))
    });
    let well =
        Advice { level: Level::Well, code: Code::Well, text: "Nothing. All is well.".into() };
    heard.unwrap_or(well)
}

fn agent(facts: &Facts) -> Option<Advice> {
    let young = facts.uptime_s < START_PATIENCE_S;
    match &facts.agent {
        Agent::Speaking(_) => None,
        Agent::Never if young => {
            say(Level::Wait, Code::Starting, "Wait. The server is starting; this takes a minute.")
        }
        Agent::Never => say(
            Level::Alarm,
            Code::AgentNever,
            "The agent has not started since the server was switched on. Press p to reboot; if \
             that does not help, call headquarters.",
        ),
        Agent::Unreadable(reason) => say(
            Level::Alarm,
            Code::StatusUnreadable,
            format!("The agent's status cannot be used: {reason}. Call headquarters."),
        ),
        Agent::Silent { for_s, .. } => silent(facts, *for_s),
    }
}

fn silent(facts: &Facts, for_s: u64) -> Option<Advice> {
    let running = match facts.vm_units.len() {
        0 => String::new(),
        1 => " The virtual machine here runs on.".into(),
        n => format!(" The {n} virtual machines here run on."),
    };
    if for_s < 60 {
        let cause = match facts.agent_process {
            Some(true) => "hangs",
            Some(false) => "is not running",
            None => "is silent",
        };
        let text = format!("Wait. The agent {cause}; it is started again by itself.{running}");
        return say(Level::Wait, Code::AgentSilent, text);
    }
    let cause = match facts.agent_process {
        Some(true) => "hung",
        Some(false) => "not been running",
        None => "been silent",
    };
    let text = format!(
        "The agent has {cause} for {}.{running} Call headquarters; press p to reboot if they agree.",
        span(for_s / 60 * 60)
    );
    say(Level::Alarm, Code::AgentSilent, text)
}

/// States of the pair in which nothing may run here, or not for long.
fn stopped(status: &Status) -> Option<Advice> {
    let other = words::other(status.slot);
    let cause = status.pair.cause.as_str();
    match status.pair.state {
        _ if status.diverged => say(
            Level::Alarm,
            Code::Diverged,
            format!(
                "Call headquarters and switch nothing off: this server and {other} went on by \
                 themselves, and their data differs. One of the two must be given up (key g)."
            ),
        ),
        PeerState::Suspect => say(Level::Alarm, Code::Frozen, frozen(&other, cause)),
        PeerState::Wait if status.older_data.is_some() => say(
            Level::Alarm,
            Code::Waiting,
            format!(
                "Switch on {other}: it was lost while this server copied from it. If it is gone for \
                 good, call headquarters: this one kept what it held before (key o)."
            ),
        ),
        PeerState::Wait => waiting(&other, cause),
        PeerState::Loser => say(
            Level::Wait,
            Code::StoodDown,
            format!("Nothing. {} carries on; this one rejoins it.", words::capital(&other)),
        ),
        _ => None,
    }
}

/// Some waits end by themselves, others only when a person brings back what is waited for.
fn frozen(other: &str, cause: &str) -> String {
    let has = |part: &str| cause.contains(part);
    if has("diverged") {
        return format!("Call headquarters and switch nothing off. {cause}");
    }
    if has("HQ does not answer") {
        return format!("Switch on {other}, or bring back the internet connection. {cause}");
    }
    if has("Frozen:") || has("Stopped:") {
        return format!("Switch on {other} and check the cables between the servers. {cause}");
    }
    let cause = if cause.is_empty() { "The other server is lost." } else { cause };
    format!("Wait a minute and switch nothing off: it is being decided who carries on. {cause}")
}

fn waiting(other: &str, cause: &str) -> Option<Advice> {
    let has = |part: &str| cause.contains(part);
    if has("Connected:") || has("brought up to date") {
        let text = format!("Wait and switch neither server off. {cause}");
        return say(Level::Wait, Code::CatchingUp, text);
    }
    if has("recorded survivor") {
        return say(Level::Wait, Code::Waiting, format!("Wait a minute. {cause}"));
    }
    if has("New here") {
        let text = format!("Wait, or switch on {other} if it is off: the two become a pair alone.");
        return say(Level::Wait, Code::Waiting, text);
    }
    say(
        Level::Alarm,
        Code::Waiting,
        format!("Switch on {other} and check the cables between the servers. {cause}"),
    )
}

fn enrolment(facts: &Facts, status: &Status) -> Option<Advice> {
    match status.enrolment {
        Enrolment::Done => None,
        Enrolment::NoClaim => say(Level::Act, Code::NoClaim, no_claim(status)),
        Enrolment::Pending => say(
            Level::Act,
            Code::ClaimPending,
            "Call headquarters and read out the fingerprint below; they let this server in.",
        ),
        Enrolment::Refused => say(
            Level::Act,
            Code::ClaimRefused,
            format!(
                "Headquarters refused the claim code: {}. Ask them for a new stick.",
                status.hq.error.or("no reason given").trim_end_matches('.')
            ),
        ),
        Enrolment::Asking if status.hq.error.is_empty() => {
            say(Level::Wait, Code::Asking, "Wait. The server is asking headquarters to let it in.")
        }
        Enrolment::Asking => contact(facts, status, Level::Act),
    }
}

fn no_claim(status: &Status) -> String {
    let said = status.problems.iter().chain([&status.hq.error]).map(Clean::as_str);
    let mut faults = said.filter(|l| l.contains("stick") && !l.starts_with("No claim stick"));
    match faults.next() {
        Some(fault) => format!("Bring the claim stick in order or ask for a new one: {fault}."),
        None => "Plug in the USB stick labelled FORECOURT that belongs to this server. It is read \
                 by itself."
            .into(),
    }
}

/// The first step on the way to HQ that fails, and its one sentence. The error itself is shown
/// beside HQ's address.
fn contact(facts: &Facts, status: &Status, level: Level) -> Option<Advice> {
    let error = status.hq.error.as_str().to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if let Some(advice) = lan(facts, status, level) {
        return Some(advice);
    }
    let url = &status.hq.url;
    if has(&["hq refused"]) {
        let text = "Call headquarters: they no longer take this server's word.";
        return say(level, Code::HqRefused, text);
    }
    if has(&["asks to wait"]) {
        return say(Level::Wait, Code::Asking, "Wait. Headquarters is busy and asked for time.");
    }
    if has(&["not valid yet", "notvalidyet", "expired", "clock"]) {
        let text = format!("Set the server's clock in its firmware: it says {}.", clock(facts));
        return say(level, Code::HqClock, text);
    }
    if has(&["certificate", "unknownissuer", "unknown issuer", "tls"]) {
        let text = format!(
            "Something on the way opens the encrypted connection. Ask who runs the network to \
             exempt {url}."
        );
        return say(level, Code::HqTls, text);
    }
    if has(&["dns", "resolve", "lookup", "name or service"]) {
        return say(level, Code::HqName, format!("Check DNS: the name in {url} is not found."));
    }
    let text = format!("Check the office's internet connection: {url} does not answer.");
    say(level, Code::HqUnreachable, text)
}

fn lan(facts: &Facts, status: &Status, level: Level) -> Option<Advice> {
    let lan = facts.nics.first()?;
    if !lan.link {
        let text = format!("Plug the office network into {} (the LAN port).", lan.name);
        return say(level, Code::NoLanLink, text);
    }
    if lan.addresses.is_empty() && status.lan.is_empty() {
        let text = "The office network gives this server no address. Is it the right socket? Ask \
                    who runs the network for DHCP.";
        return say(level, Code::NoLanAddress, text);
    }
    None
}

/// Without a blank disk there is nothing to run VMs on.
fn disk(status: &Status) -> Option<Advice> {
    let find = |part: &str| status.problems.iter().map(Clean::as_str).find(|l| l.contains(part));
    let none = find("No blank disk")?;
    let text = match find("is not blank") {
        Some(line) => format!("Put in an empty data disk. {line}."),
        None => format!("Put in an empty data disk. {none}."),
    };
    say(Level::Act, Code::Disk, text)
}

fn machines(status: &Status) -> Option<Advice> {
    let find = |phase: VmPhase| status.vms.iter().find(|vm| vm.phase == phase);
    if let Some(vm) = find(VmPhase::Failed) {
        let text =
            format!("Call headquarters: {} does not run.{}", vm.name, reason(vm.detail.as_str()));
        return say(Level::Alarm, Code::VmFailed, text);
    }
    let vm = find(VmPhase::Frozen)?;
    let text = format!(
        "Wait a minute and switch nothing off: the disks of {} are frozen.{}",
        vm.name,
        reason(vm.detail.as_str())
    );
    say(Level::Alarm, Code::VmFrozen, text)
}

/// Work goes on, with less protection than it should have.
fn protection(facts: &Facts, status: &Status) -> Option<Advice> {
    let other = words::other(status.slot);
    match status.pair.state {
        PeerState::Solo if status.waits_for_the_others_vms() => say(
            Level::Alarm,
            Code::Alone,
            format!(
                "Wait a minute. If VMs still stand by then, see that {other} is off and press d: \
                 only then are they certain to run nowhere else."
            ),
        ),
        PeerState::Solo => say(
            Level::Act,
            Code::Alone,
            format!("Look after {other}: is it on, are its cables in? This one carries on alone."),
        ),
        PeerState::Resync => say(
            Level::Wait,
            Code::CatchingUp,
            "Wait and switch neither server off: one copies what it missed from the other.",
        ),
        PeerState::Maint => say(
            Level::Wait,
            Code::Maintenance,
            "Nothing. Headquarters has taken this server out for maintenance.",
        ),
        PeerState::Pair => path_lost(facts, status),
        _ => None,
    }
}

fn path_lost(facts: &Facts, status: &Status) -> Option<Advice> {
    let port = |index: usize| {
        facts.nics.get(index).map_or_else(String::new, |nic| format!(" (port {})", nic.name))
    };
    match status.pair.heard {
        [false, true] => say(
            Level::Act,
            Code::PathLost,
            format!("Check the direct cable between the two servers{}. Work goes on.", port(1)),
        ),
        [true, false] => say(
            Level::Act,
            Code::PathLost,
            format!(
                "Check the office network{}: the servers hear each other only over the direct \
                 cable.",
                port(0)
            ),
        ),
        _ => None,
    }
}

fn headquarters(facts: &Facts, status: &Status) -> Option<Advice> {
    let silence_s = status.hq.age_s.unwrap_or(facts.uptime_s);
    if status.hq.error.is_empty() || silence_s < HQ_PATIENCE_S {
        return None;
    }
    let mut advice = contact(facts, status, Level::Act)?;
    advice.text.push_str(" Virtual machines run on.");
    Some(advice)
}

fn others(status: &Status) -> Option<Advice> {
    // HQ's silence has its own rule, and its own patience.
    let about_hq = |line: &str| {
        !status.hq.error.is_empty() && (line == status.hq.error.as_str() || line.contains("HQ"))
    };
    // The watchdog is armed once VMs may run; before that it is nobody's problem.
    let early = status.pair.state == PeerState::Boot;
    let about_watchdog = |line: &str| early && line.contains("watchdog is not armed");
    let problems = status.problems.iter().map(Clean::as_str);
    let mut problems = problems.filter(|line| !about_hq(line) && !about_watchdog(line));
    if let Some(problem) = problems.next() {
        let code = if problem.contains("is not blank") { Code::Disk } else { Code::Problem };
        return say(Level::Act, code, problem);
    }
    if !status.clock_trusted {
        let text = "The clock is not trusted yet. It is set by itself once headquarters answers.";
        return say(Level::Wait, Code::ClockUntrusted, text);
    }
    if status.pair.state == PeerState::Boot {
        return say(Level::Wait, Code::Starting, "Wait. The server is starting its services.");
    }
    let early = [VmPhase::Fetching, VmPhase::Preparing, VmPhase::Starting];
    let vm = status.vms.iter().find(|vm| early.contains(&vm.phase))?;
    let detail = if vm.detail.is_empty() { words::vm(vm.phase) } else { vm.detail.as_str() };
    say(Level::Wait, Code::VmPreparing, format!("Wait. {}: {detail}.", vm.name))
}

fn reason(cause: &str) -> String {
    if cause.is_empty() { String::new() } else { format!(" ({cause})") }
}

fn clock(facts: &Facts) -> String {
    crate::text::date_time(facts.wall_ms)
}
