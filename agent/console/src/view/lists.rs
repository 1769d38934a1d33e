// SPDX-License-Identifier: Apache-2.0
//! Virtual machines and events: in short on the overview, in full on pages of their own.

use super::Row;
use crate::facts::{Facts, Vm};
use crate::text::{clip, date_time, time_of_day, wrap};
use crate::words;

/// Up to so many VMs get a whole row each on the overview.
const WIDE_VMS_MAX: usize = 3;

/// Title of the list of VMs: how many run here.
pub(super) fn vm_title(facts: &Facts) -> String {
    match facts.fresh() {
        Some(status) => {
            let here = status.vms.iter().filter(|vm| words::is_here(vm)).count();
            format!("Virtual machines: {here} of {} run here", status.vms.len())
        }
        None => format!("Virtual machines: {} run here", facts.vm_units.len()),
    }
}

/// VMs in at most `room` rows.
pub(super) fn vm_summary(facts: &Facts, width: usize, room: usize) -> Vec<Row> {
    let cells: Vec<String> = match facts.fresh() {
        Some(status) if status.vms.len() <= WIDE_VMS_MAX.min(room) => {
            return some_or(
                status.vms.iter().map(|vm| Row::plain(wide(vm))).collect(),
                "none assigned yet",
            );
        }
        Some(status) => {
            status.vms.iter().map(|vm| short(vm.name.as_str(), words::vm(vm.phase))).collect()
        }
        None => facts.vm_units.iter().map(|name| short(name.as_str(), "running")).collect(),
    };
    let columns = (width / 39).max(1);
    let fit = room.max(1) * columns;
    let more = cells.len().saturating_sub(fit);
    let mut shown: Vec<&str> = cells.iter().map(String::as_str).take(fit).collect();
    let note = format!(" and {} more (4)", more + 1);
    if more > 0 {
        shown.pop();
        shown.push(&note);
    }
    let rows = shown.chunks(columns).map(|cells| {
        let cells: Vec<String> =
            cells.iter().map(|cell| format!("{:<38}", clip(cell, 38))).collect();
        Row::plain(cells.join(" "))
    });
    some_or(rows.collect(), "none")
}

fn some_or(rows: Vec<Row>, none: &str) -> Vec<Row> {
    if rows.is_empty() { vec![Row::plain(format!(" {none}"))] } else { rows }
}

fn short(name: &str, state: &str) -> String {
    format!(" {:<19} {state}", clip(name, 19))
}

fn wide(vm: &Vm) -> String {
    let name = clip(vm.name.as_str(), 22);
    let state = words::vm(vm.phase);
    format!(" {name:<23}{state:<18}{:<20} {}", clip(vm.template.as_str(), 20), vm.detail)
}

/// Page 4: all VMs.
pub(super) fn vms(facts: &Facts, width: usize) -> Vec<Row> {
    let mut rows = vec![Row::blank(), Row::bold(format!(" {}", vm_title(facts))), Row::blank()];
    let Some(status) = facts.fresh() else {
        rows.push(Row::plain(" The agent is silent. These have a running service:"));
        rows.extend(facts.vm_units.iter().map(|name| Row::plain(format!("   {name}"))));
        return rows;
    };
    for vm in &status.vms {
        rows.push(Row::plain(format!(
            " {:<41} {:<18} {}",
            vm.name,
            words::vm(vm.phase),
            vm.template
        )));
        let detail = wrap(vm.detail.as_str(), width.saturating_sub(5), 3);
        rows.extend(detail.iter().map(|line| Row::plain(format!("     {line}"))));
    }
    rows
}

/// One row an event, newest first.
pub(super) fn event_lines(facts: &Facts, width: usize) -> Vec<Row> {
    let events = facts.status().map(|status| status.events.as_slice()).unwrap_or_default();
    let line = |event: &crate::facts::Event| {
        let text = format!(" {} {}: {}", time_of_day(event.at_ms), event.code, event.text);
        Row::plain(clip(&text, width))
    };
    some_or(events.iter().map(line).collect(), "none since the agent started")
}

/// Page 2: events in full, newest first.
pub(super) fn events(facts: &Facts, width: usize) -> Vec<Row> {
    let mut rows = vec![Row::blank(), Row::bold(" Last events, newest first (UTC)"), Row::blank()];
    let events = facts.status().map(|status| status.events.as_slice()).unwrap_or_default();
    for event in events {
        rows.push(Row::plain(format!(" {}  {}", date_time(event.at_ms), event.code)));
        let lines = wrap(event.text.as_str(), width.saturating_sub(6), 4);
        rows.extend(lines.iter().map(|line| Row::plain(format!("     {line}"))));
    }
    if events.is_empty() {
        rows.push(Row::plain(" None since the agent started."));
    }
    rows
}
