// SPDX-License-Identifier: Apache-2.0
//! When Pacemaker's survivor did what, by its own journal (`journalctl -o short-unix`).

use crate::bench::sample::Phases;
use anyhow::Context;

/// The figure's name; words that its line must have; whether the last such line counts.
const LINES: [(&str, [&str; 2], bool); 4] = [
    ("detect_s", ["corosync[", "processor failed"], false),
    ("confirmed_off_s", ["Operation 'off' targeting", ": OK"], false),
    // Two volumes, each with a line of its own.
    ("promote_s", ["kernel:", "role( Secondary -> Primary )"], true),
    ("started_s", ["systemd[1]:", "Started guest.service"], false),
];

/// Seconds since the kill, which was at `killed_s` by the journal's clock.
pub fn phases(journal: &str, killed_s: f64) -> anyhow::Result<Phases> {
    let mut phases = Phases::new();
    for (name, words, last) in LINES {
        let times = journal.lines().filter_map(|line| {
            let wanted = words.iter().all(|word| line.contains(word));
            let at_s = line.split_whitespace().next()?.parse::<f64>().ok()?;
            wanted.then_some(at_s).filter(|at_s| *at_s > killed_s)
        });
        let at_s = times.reduce(|one, next| if last { next } else { one });
        let at_s = at_s.with_context(|| format!("No line with {words:?} in the journal"))?;
        phases.insert(name, at_s - killed_s);
    }
    Ok(phases)
}

#[cfg(test)]
mod tests {
    use super::phases;

    const JOURNAL: &str = "\
        90.000000 a kernel: block drbd0: role( Secondary -> Primary )\n\
        103.000000 a corosync[500]:   [TOTEM ] A processor failed, forming new configuration: \
        token timed out (3000ms), waiting 1000ms for consensus.\n\
        112.500000 a pacemaker-fenced[611]:  notice: Operation 'off' targeting b by a for \
        pacemaker-controld.615@a: OK (complete)\n\
        120.000000 a kernel: block drbd0: role( Secondary -> Primary )\n\
        120.250000 a kernel: block drbd1: role( Secondary -> Primary )\n\
        125.000000 a systemd[1]: Started guest.service - VM under Pacemaker.\n";

    #[test]
    fn each_phase_is_read_from_its_line_after_the_kill() {
        let found = phases(JOURNAL, 100.0).unwrap();
        let wanted = [3.0, 12.5, 20.25, 25.0];
        let names = ["detect_s", "confirmed_off_s", "promote_s", "started_s"];
        for (name, seconds) in names.into_iter().zip(wanted) {
            assert_eq!(found[name], seconds, "{name}");
        }
    }

    #[test]
    fn a_phase_without_its_line_is_an_error() {
        let text = JOURNAL.replace("OK (complete)", "No such device");
        let error = phases(&text, 100.0).unwrap_err().to_string();
        assert!(error.contains("targeting"), "{error}");
    }
}
