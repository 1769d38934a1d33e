// SPDX-License-Identifier: Apache-2.0
//! Page 1: everything at a glance, the advice first.

use super::{LABEL, Look, Row, lists};
use crate::advice::advice;
use crate::facts::{Agent, Facts, Nic, Status};
use crate::text::{age, clip, date_time, span, wrap};
use crate::words;
use provisioning_protocol::peer::Path;
use provisioning_protocol::status::Enrolment;

/// Least rows kept for events.
const EVENTS_MIN: usize = 2;

/// The body, exactly as high as there is room for.
pub(super) fn rows(facts: &Facts, width: usize, height: usize) -> Vec<Row> {
    let mut rows = advice_rows(facts, width);
    rows.push(Row::rule(""));
    rows.extend(server(facts));
    if let Some(status) = facts.status() {
        rows.extend(status_rows(facts, status, width));
    }
    let room = height.saturating_sub(rows.len() + 2);
    let events = lists::event_lines(facts, width);
    let vms = lists::vm_summary(facts, width, room.saturating_sub(EVENTS_MIN.min(events.len())));
    rows.push(Row::rule(&lists::vm_title(facts)));
    let left = room.saturating_sub(vms.len());
    rows.extend(vms);
    rows.push(Row::rule("Last events (UTC)"));
    rows.extend(events.into_iter().take(left));
    rows
}

/// Two rows of advice, always at the same place, with the code at the right.
fn advice_rows(facts: &Facts, width: usize) -> Vec<Row> {
    let advice = advice(facts);
    let room = width.saturating_sub(LABEL + 2);
    let code = advice.code.id();
    let mut lines = wrap(&advice.text, room.saturating_sub(code.len() + 1), 3);
    lines.resize(lines.len().max(2), String::new());
    let look = Look::Advice(advice.level);
    let labels = ["What to do", "now", ""];
    let marked = lines.iter().zip(labels).enumerate().map(|(index, (line, label))| {
        let code = if index == 0 { code } else { "" };
        let pad = room.saturating_sub(code.len());
        Row { look, text: format!(" {label:<LABEL$}{line:<pad$}{code}") }
    });
    marked.collect()
}

fn server(facts: &Facts) -> Vec<Row> {
    let serial = match facts.status() {
        Some(status) if facts.serial.is_empty() => &status.serial,
        _ => &facts.serial,
    };
    let machine = format!("serial {}   {}", serial.or("unknown"), facts.product);
    let agent = match &facts.agent {
        Agent::Speaking(status) => format!("agent {}", status.version),
        Agent::Silent { for_s, .. } => {
            format!("agent SILENT for {}; below: its last words", span(for_s / 10 * 10))
        }
        Agent::Never => "agent NOT STARTED".into(),
        Agent::Unreadable(_) => "agent status UNREADABLE".into(),
    };
    let replication = facts.fresh().and_then(|status| status.pair.replication);
    let up = if facts.uptime_s < 60 { "under 1 min".into() } else { span(facts.uptime_s) };
    vec![
        Row::fact("This server", &machine),
        Row::fact("Software", &format!("{agent}   up {up}")),
        Row::fact("LAN", &nic(facts.nics.first(), replication == Some(Path::Lan))),
        Row::fact("Cable", &nic(facts.nics.get(1), replication == Some(Path::Cable))),
    ]
}

fn nic(nic: Option<&Nic>, replicates: bool) -> String {
    let Some(nic) = nic else { return "NO NETWORK CARD FOUND".into() };
    let addresses: Vec<&str> = nic.addresses.iter().take(2).map(|a| a.as_str()).collect();
    let link = match (nic.link, nic.speed) {
        (false, _) => "NO LINK".to_owned(),
        (true, Some(speed)) => format!("link {speed} Mbit/s"),
        (true, None) => "link".to_owned(),
    };
    let addresses = if addresses.is_empty() { "no address".into() } else { addresses.join("  ") };
    let role = if replicates { ", replication" } else { "" };
    format!("{addresses}   {link} ({}){role}", nic.name)
}

fn status_rows(facts: &Facts, status: &Status, width: usize) -> Vec<Row> {
    let clock = if status.clock_trusted { "trusted" } else { "NOT TRUSTED" };
    let now = date_time(facts.wall_ms);
    let now = now.get(..16).unwrap_or(&now);
    let mut rows = vec![Row::fact("Headquarters", &headquarters(status))];
    if !status.hq.error.is_empty() {
        rows.push(Row::fact("", status.hq.error.as_str()));
    }
    rows.push(Row::fact("Clock", &format!("{now} UTC, {clock}")));
    if status.enrolment == Enrolment::Done {
        rows.extend(pair(status, width));
    } else {
        rows.push(Row::fact("Enrolment", enrolment(status.enrolment)));
        rows.push(Row::fact("Fingerprint", status.fingerprint.or("none yet")));
    }
    rows.push(Row::fact("Data disks", &data_disks(status)));
    rows
}

fn headquarters(status: &Status) -> String {
    let hq = &status.hq;
    if hq.url.is_empty() {
        return "not known yet; the claim stick names it".into();
    }
    let url = &hq.url;
    match status.enrolment {
        Enrolment::Refused => return format!("answered, and refused   {url}"),
        Enrolment::Pending => return format!("answered, decides later   {url}"),
        Enrolment::NoClaim | Enrolment::Asking | Enrolment::Done => (),
    }
    match (hq.age_s, hq.error.is_empty()) {
        (Some(seconds), true) => format!("answered {}   {url}", age(seconds)),
        (None, true) => format!("not asked yet   {url}"),
        (Some(seconds), false) => format!("NO ANSWER, last {}   {url}", age(seconds)),
        (None, false) => format!("NO ANSWER since boot   {url}"),
    }
}

/// The system's own disk and sticks are no data disks; page 3 lists them too.
fn data_disks(status: &Status) -> String {
    let own = ["this server's system", "on USB", "removable"];
    let lines = status.disks.iter().map(|line| line.as_str().replace(" :", ":"));
    let lines: Vec<String> =
        lines.filter(|line| !own.iter().any(|word| line.contains(word))).collect();
    if lines.is_empty() { "none found".into() } else { lines.join("; ") }
}

fn enrolment(enrolment: Enrolment) -> &'static str {
    match enrolment {
        Enrolment::NoClaim => "no claim stick found",
        Enrolment::Asking => "asking headquarters",
        Enrolment::Pending => "waits for an operator at headquarters",
        Enrolment::Refused => "REFUSED by headquarters",
        Enrolment::Done => "done",
    }
}

fn pair(status: &Status, width: usize) -> Vec<Row> {
    let pair = &status.pair;
    let state = format!(" {:<LABEL$}{} (epoch {})", "Pair", words::pair(pair), pair.epoch);
    let mut rows = vec![Row::bold(clip(&state, width))];
    let cause = wrap(pair.cause.as_str(), width.saturating_sub(LABEL + 2), 2);
    rows.extend(cause.iter().map(|line| Row::fact("", line)));
    rows.push(Row::fact(&words::capital(&words::other(status.slot)), &peer(status)));
    rows
}

fn peer(status: &Status) -> String {
    let heard = status.pair.heard;
    let Some(peer) = &status.peer else {
        return format!("{}, never since boot", words::heard(heard));
    };
    let state = words::peer(peer.state.as_str());
    if heard == [false, false] {
        return format!("NOT HEARD; it was {state} {}", age(peer.age_s));
    }
    let running = usize::try_from(peer.running).unwrap_or(usize::MAX);
    let running = words::count(running, "VM", "VMs");
    format!("{state}, runs {running}, {}", words::heard(heard))
}
