// SPDX-License-Identifier: Apache-2.0
//! What stands in the way, in words. The order of [`Concern`] is the order of importance: the
//! first problem is shown as "what to do now".

use std::collections::BTreeMap;

/// What a problem is about, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Concern {
    /// Keys, state files.
    State,
    /// Claim and enrolment.
    Enrolment,
    /// The pair.
    Pair,
    /// Disks and the volume pool.
    Disks,
    /// A VM.
    Vm,
    /// A template.
    Template,
    /// Network and tunnels.
    Network,
    /// Contact with HQ.
    Hq,
    /// The hardware watchdog.
    Watchdog,
}

/// Problems by concern and object; setting one again replaces its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    by: BTreeMap<(Concern, String), Vec<String>>,
}

impl Problems {
    /// Sets (or with an empty list clears) the problems of one object. Tells whether it changed.
    pub fn set(&mut self, concern: Concern, object: &str, words: Vec<String>) -> bool {
        let key = (concern, object.to_owned());
        if words.is_empty() {
            return self.by.remove(&key).is_some();
        }
        let words: Vec<String> =
            words.into_iter().map(|line| line.chars().take(400).collect()).collect();
        if self.by.get(&key) == Some(&words) {
            return false;
        }
        self.by.insert(key, words);
        true
    }

    /// All, worst first, at most 20.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.by.values().flatten().take(20).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_concern_comes_first_and_a_cleared_one_goes() {
        let mut problems = Problems::default();
        assert!(problems.set(Concern::Hq, "", vec!["HQ is away".into()]));
        assert!(problems.set(Concern::Disks, "vdb", vec!["vdb is not blank".into()]));
        assert!(!problems.set(Concern::Disks, "vdb", vec!["vdb is not blank".into()]));
        assert_eq!(problems.lines(), ["vdb is not blank", "HQ is away"]);
        assert!(problems.set(Concern::Disks, "vdb", vec![]));
        assert!(!problems.set(Concern::Disks, "vdb", vec![]));
        assert_eq!(problems.lines(), ["HQ is away"]);
    }
}
