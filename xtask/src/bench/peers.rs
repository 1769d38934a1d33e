// SPDX-License-Identifier: Apache-2.0
//! `bench peers`: the contenders side by side.

use tests_lab::bench::peers::{Report, Standing};

/// The phases in the order of a failover, and what a person calls them.
const PHASES: [(&str, &str); 7] = [
    ("detect_s", "noticed"),
    ("grant_s", "granted"),
    ("confirmed_off_s", "fenced"),
    ("promote_s", "promoted"),
    ("started_s", "VM started"),
    ("serving_s", "serving"),
    ("resync_s", "whole again"),
];

/// Medians in seconds after the kill (the last phase: after power-on), a column for each contender;
/// then the ratio, and what became of the writes.
pub fn table(report: &Report) -> Vec<String> {
    let column = |text: &str| format!("{text:>22}");
    let row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| column(cell)).collect();
        format!("{name:<16}{cells}")
    };
    let each = |cell: fn(&Standing) -> String| report.contenders.iter().map(cell).collect();
    let mut head: Vec<String> = each(|one| one.contender.name().to_owned());
    head.push("ratio".to_owned());
    let mut lines = vec![row("seconds, p50", head)];
    for (phase, name) in PHASES {
        let median = |one: &Standing| {
            one.all.phases.get(phase).map_or("-".to_owned(), |spread| format!("{:.1}", spread.p50))
        };
        let mut cells: Vec<String> = report.contenders.iter().map(median).collect();
        cells.push(report.ratios.get(phase).map_or(String::new(), |ratio| format!("{ratio:.1}")));
        lines.push(row(name, cells).trim_end().to_owned());
    }
    lines.push(row("runs", each(|one| one.all.runs.len().to_string())));
    lines.push(row("writes", each(|one| one.all.acked_writes.to_string())));
    lines.push(row("lost", each(|one| one.all.lost_writes.to_string())));
    lines.push(row("torn", each(|one| one.all.torn_writes.to_string())));
    lines
}

#[cfg(test)]
mod tests {
    use super::table;
    use tests_lab::accel::Accel;
    use tests_lab::bench::Spread;
    use tests_lab::bench::peers::{Contender, Report, Standing};
    use tests_lab::bench::sample::Runs;

    #[test]
    fn a_phase_that_one_does_not_have_is_a_dash() {
        let standing = |contender, phase| Standing {
            contender,
            all: Runs {
                phases: [(phase, Spread::of(&[4.0]))].into(),
                acked_writes: 50,
                lost_writes: 0,
                torn_writes: 0,
                error: None,
                runs: Vec::new(),
            },
        };
        let contenders = vec![
            standing(Contender::ForecourtBmc, "grant_s"),
            standing(Contender::Pacemaker, "serving_s"),
        ];
        let report = Report { accel: Accel::Tcg, contenders, ratios: [("serving_s", 1.5)].into() };
        let lines = table(&report);
        let words = |name: &str| -> Vec<String> {
            let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(words("granted"), ["4.0", "-"]);
        assert_eq!(words("serving"), ["-", "4.0", "1.5"]);
        assert_eq!(words("writes"), ["50", "50"]);
    }
}
