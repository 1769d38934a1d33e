// SPDX-License-Identifier: Apache-2.0
//! "What to do now": from facts to one sentence, and a code to read out on the phone.
//!
//! The rules are tried in order; the first that has something to say wins. What stops virtual
//! machines comes before what stops enrolment, and that before what only lowers protection.

use crate::facts::{Agent, Facts, Status};
use crate::text::span;
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
    Disk,
    Frozen,
    Waiting,
    StoodDown,
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
    pub const ALL: [Self; 28] = [
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
        Self::Disk,
        Self::Frozen,
        Self::Waiting,
        Self::StoodDown,
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
            Self::Disk => "F30",
            Self::Frozen => "F40",
            Self::Waiting => "F41",
            Self::StoodDown => "F42",
            Self::Alone => "F43",
            Self::CatchingUp => "F44",
            Self::PathLost => "F45",
            Self::Maintenance => "F46",
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

/// States of the pair in which nothing may run here.
fn stopped(status: &Status) -> Option<Advice> {
    let other = words::other(status.slot);
    let because = reason(status.pair.cause.as_str());
    match status.pair.state {
        PeerState::Suspect => say(
            Level::Alarm,
            Code::Frozen,
            format!(
                "Wait a minute and switch nothing off: {other} was lost and it is being decided \
                 who carries on.{because}"
            ),
        ),
        PeerState::Wait => say(
            Level::Alarm,
            Code::Waiting,
            format!(
                "Switch on {other} and check the cables between the servers. This one may hold \
                 old data and waits for it.{because}"
            ),
        ),
        PeerState::Loser => say(
            Level::Wait,
            Code::StoodDown,
            format!("Nothing. {} carries on; this server rejoins it.{because}", capital(&other)),
        ),
        _ => None,
    }
}

fn enrolment(facts: &Facts, status: &Status) -> Option<Advice> {
    match status.enrolment {
        Enrolment::Done => None,
        Enrolment::NoClaim => say(
            Level::Act,
            Code::NoClaim,
            "Plug in the USB stick labelled FORECOURT that belongs to this server. It is read by \
             itself.",
        ),
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

/// The first step on the way to HQ that fails, and its one sentence.
fn contact(facts: &Facts, status: &Status, level: Level) -> Option<Advice> {
    let error = status.hq.error.as_str();
    let lower = error.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if let Some(lan) = facts.nics.first() {
        if !lan.link {
            let text = format!("Plug the office network into {} (the LAN port).", lan.name);
            return say(level, Code::NoLanLink, text);
        }
        if lan.addresses.is_empty() && status.lan.is_empty() {
            let text = "The office network gives this server no address. Is it the right socket? \
                        Ask who runs the network for DHCP.";
            return say(level, Code::NoLanAddress, text);
        }
    }
    if has(&["not valid yet", "notvalidyet", "expired", "clock"]) {
        let text = format!("Set the server's clock (it says {}): {error}", clock(facts));
        return say(level, Code::HqClock, text);
    }
    if has(&["certificate", "unknownissuer", "unknown issuer", "tls"]) {
        let text = format!(
            "Something on the way opens the encrypted connection to {}. Ask who runs the network \
             to exempt that address. ({error})",
            status.hq.url
        );
        return say(level, Code::HqTls, text);
    }
    if has(&["dns", "resolve", "lookup", "name or service"]) {
        let text = format!("The name in {} is not found. Check DNS. ({error})", status.hq.url);
        return say(level, Code::HqName, text);
    }
    let text = format!(
        "Check the office's internet connection: {} does not answer. ({error})",
        status.hq.url
    );
    say(level, Code::HqUnreachable, text)
}

fn disk(status: &Status) -> Option<Advice> {
    let is_taken_by_others = |line: &str| {
        let line = line.to_lowercase();
        ["not blank", "left alone", "no blank", "no data disk"].iter().any(|w| line.contains(w))
    };
    let all = status.problems.iter().chain(&status.disks);
    let line = all.map(crate::text::Clean::as_str).find(|line| is_taken_by_others(line))?;
    // A server that has its disk may carry others that are none of its business.
    if status.vms.iter().any(words::is_here) || status.pair.state == PeerState::Pair {
        return None;
    }
    let text = format!(
        "Put in an empty data disk, or have this one wiped if nobody needs it: {line}. Nothing on \
         it was touched."
    );
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
    advice.text.push_str(" Virtual machines run on meanwhile.");
    Some(advice)
}

fn others(status: &Status) -> Option<Advice> {
    if let Some(problem) = status.problems.first() {
        return say(Level::Act, Code::Problem, problem.as_str());
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

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}
