// SPDX-License-Identifier: Apache-2.0
//! The documents tell the truth: every file they link to and every test they name is there.

use crate::{paths, sh};
use anyhow::bail;
use std::path::Path;

/// Checks the links of every Markdown file git knows or would add.
pub fn run() -> anyhow::Result<String> {
    let root = paths::root();
    let mut list = sh::command_in(&root, "git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]);
    let names = sh::output(&mut list)?;
    let (mut faults, mut checked) = (Vec::new(), 0);
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        let folder = root.join(name).parent().unwrap_or(&root).to_owned();
        for link in links(&text) {
            checked += 1;
            if let Some(fault) = fault(&folder, &link) {
                faults.push(format!("{name}: {fault}"));
            }
        }
    }
    if faults.is_empty() {
        return Ok(format!("{checked} links"));
    }
    bail!("{} links lead nowhere:\n  {}", faults.len(), faults.join("\n  "))
}

/// A link's text and target.
struct Link {
    text: String,
    target: String,
}

fn links(text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    let parts: Vec<&str> = text.split("](").collect();
    for pair in parts.windows(2) {
        let text = pair[0].rsplit('[').next().unwrap_or_default().to_owned();
        let target = pair[1].split([')', '\n']).next().unwrap_or_default().to_owned();
        found.push(Link { text, target });
    }
    found
}

fn fault(folder: &Path, link: &Link) -> Option<String> {
    let target = link.target.split('#').next().unwrap_or_default();
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let path = folder.join(target);
    if !path.exists() {
        return Some(format!("{target} is not there"));
    }
    let name = link.text.strip_prefix('`')?.strip_suffix('`')?;
    if !target.ends_with(".rs") || name.contains(['.', '/', ' ']) {
        return None;
    }
    let code = std::fs::read_to_string(&path).unwrap_or_default();
    let is_there =
        code.contains(&format!("fn {name}(")) || code.contains(&format!("name: \"{name}\""));
    (!is_there).then(|| format!("{target} has no test or scenario {name}"))
}

#[cfg(test)]
mod tests {
    use super::{Link, fault, links};

    #[test]
    fn a_renamed_test_or_a_moved_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.rs"), "fn held() {}\nname: \"wan-once\",\n").unwrap();
        let check = |text: &str, target: &str| {
            fault(dir.path(), &Link { text: text.into(), target: target.into() })
        };
        assert_eq!(check("`held`", "a.rs"), None);
        assert_eq!(check("`wan-once`", "a.rs"), None);
        assert_eq!(check("the file", "a.rs#part"), None);
        assert!(check("`gone`", "a.rs").is_some());
        assert!(check("the file", "b.rs").is_some());
        assert_eq!(check("elsewhere", "https://example.org/x.rs"), None);
    }

    #[test]
    fn all_links_of_a_line_are_seen() {
        let found = links("see [a](x.md), [`b`](y.rs) and ![c](z.svg)\n");
        let found: Vec<_> = found.iter().map(|l| (l.text.as_str(), l.target.as_str())).collect();
        assert_eq!(found, [("a", "x.md"), ("`b`", "y.rs"), ("c", "z.svg")]);
    }
}
