// SPDX-License-Identifier: Apache-2.0
//! House rules no lint knows: licence lines, module docs, file length, words that must not appear.

use crate::{paths, sh};
use anyhow::bail;
use std::path::Path;

/// Longest source file, its tests not counted.
const FILE_LINES_MAX: usize = 800;

/// Checks every file git knows or would add.
pub fn run() -> anyhow::Result<String> {
    let root = paths::root();
    let mut list = sh::command_in(&root, "git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = sh::output(&mut list)?;
    let mut faults = Vec::new();
    let mut checked = 0;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        // A listed file may have been deleted, or be an image.
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        checked += 1;
        check_file(name, &text, &mut faults);
    }
    if faults.is_empty() {
        return Ok(format!("{checked} files"));
    }
    bail!("{} house rules broken:\n  {}", faults.len(), faults.join("\n  "))
}

fn check_file(name: &str, text: &str, faults: &mut Vec<String>) {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or("");
    if wants_licence(name, extension) && !text.lines().take(3).any(|l| l.contains("SPDX-License")) {
        faults.push(format!("{name}:1: no SPDX-License-Identifier line"));
    }
    if extension != "md" {
        for (number, line) in text.lines().enumerate() {
            if line.ends_with([' ', '\t']) && !recorded(name) {
                faults.push(format!("{name}:{}: trailing whitespace", number + 1));
            }
        }
    }
    // Spelled apart, or this file would break its own rule.
    let machine_path = concat!("/wo", "rk/");
    if let Some(number) = text.lines().position(|line| holds_absolute(line, machine_path)) {
        faults.push(format!("{name}:{}: a path of one machine ({machine_path})", number + 1));
    }
    if extension == "rs" {
        check_rust(name, text, faults);
    }
}

/// Whether a line holds this path from the root on, and not as a part of another path.
fn holds_absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '-' | '.' | '}'))
    })
}

fn wants_licence(name: &str, extension: &str) -> bool {
    matches!(extension, "rs" | "sh" | "conf" | "yaml" | "yml" | "service" | "socket" | "mount")
        && !recorded(name)
}

/// Recorded outputs and hostile inputs are what they are.
fn recorded(name: &str) -> bool {
    ["/snapshots/", "/fixtures/", "/data/", "/testdata/"].iter().any(|part| name.contains(part))
        || name.ends_with(".snap")
}

fn check_rust(name: &str, text: &str, faults: &mut Vec<String>) {
    let mut lines = text.lines();
    if !lines.next().is_some_and(|line| line.starts_with("// SPDX-License-Identifier: ")) {
        faults.push(format!("{name}:1: the first line is not the SPDX line"));
    }
    if !lines.next().is_some_and(|line| line.starts_with("//!")) {
        faults.push(format!("{name}:2: no `//!` line saying what the file is for"));
    }
    let is_test = name.contains("/tests/") && !name.starts_with("tests/");
    let product = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let mut length = 0;
    for (number, line) in product.enumerate() {
        length = number + 1;
        if !is_test && !line.trim_start().starts_with("//") {
            check_line(name, length, line, faults);
        }
    }
    if length > FILE_LINES_MAX && !is_test {
        faults.push(format!("{name}: {length} lines, at most {FILE_LINES_MAX} (tests apart)"));
    }
}

fn check_line(name: &str, number: usize, line: &str, faults: &mut Vec<String>) {
    // Spelled apart for the same reason as above.
    let banned = [
        (concat!(".unw", "rap()"), "use `?`, or `expect` saying why it holds"),
        (concat!("#[al", "low("), "use `#[expect(…, reason = \"…\")]`"),
        (concat!("#![al", "low("), "use `#![expect(…, reason = \"…\")]`"),
        (concat!("to", "do!("), "unfinished code"),
        (concat!("unimpl", "emented!("), "unfinished code"),
        (concat!("db", "g!("), "debugging output"),
    ];
    for (pattern, advice) in banned {
        if line.contains(pattern) {
            faults.push(format!("{name}:{number}: `{pattern}`: {advice}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_file;

    fn faults(name: &str, text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        check_file(name, text, &mut faults);
        faults
    }

    const HEAD: &str = "// SPDX-License-Identifier: Apache-2.0\n//! Doc.\n";

    #[test]
    fn a_clean_file_passes() {
        assert!(faults("a/src/lib.rs", &format!("{HEAD}fn f() {{}}\n")).is_empty());
    }

    #[test]
    fn each_broken_rule_is_named_with_its_line() {
        let text = format!("{HEAD}#[allow(dead_code)]\nfn f() {{ g().unwrap() }} \n");
        let found = faults("a/src/lib.rs", &text);
        assert!(found.iter().any(|f| f.starts_with("a/src/lib.rs:3:")), "{found:?}");
        assert!(found.iter().any(|f| f.contains(":4:") && f.contains("unwrap")), "{found:?}");
        assert!(found.iter().any(|f| f.contains(":4: trailing")), "{found:?}");
    }

    #[test]
    fn tests_inside_a_file_may_unwrap() {
        let text = format!("{HEAD}#[cfg(test)]\nmod tests {{ fn f() {{ g().unwrap() }} }}\n");
        assert!(faults("a/src/lib.rs", &text).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_a_part_of_a_path_is_not() {
        let path = concat!("/wo", "rk/main");
        assert_eq!(faults("docs/x.md", &format!("see {path}\n")).len(), 1);
        assert!(faults("docs/x.md", &format!("see FOLDER{path}\n")).is_empty());
    }

    #[test]
    fn a_missing_licence_or_doc_line_is_found() {
        assert_eq!(faults("a/src/lib.rs", "fn f() {}\n").len(), 3);
        assert_eq!(faults("image/x.sh", "#!/bin/sh\ntrue\n").len(), 1);
    }

    #[test]
    fn overlong_files_are_found_without_counting_their_tests() {
        let body = "fn f() {}\n".repeat(900);
        assert_eq!(faults("a/src/x.rs", &format!("{HEAD}{body}")).len(), 1);
        assert!(faults("a/src/x.rs", &format!("{HEAD}#[cfg(test)]\n{body}")).is_empty());
    }
}
