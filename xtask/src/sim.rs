// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask sim`: the simulator, built for the length of the run.

use crate::{build, sh};

/// From this many seeds on, a longer build pays.
const MANY_SEEDS: u64 = 50_000;

/// Runs the simulator with these arguments.
pub fn run(args: &[String]) -> anyhow::Result<()> {
    let mut command = build::cargo();
    command.args(["run", "--quiet", "-p", "tests-sim"]);
    if seeds(args) >= MANY_SEEDS {
        command.args(["--profile", "sim"]);
    }
    sh::run(command.arg("--").args(args))
}

/// What follows `--seeds`, as the simulator will read it.
fn seeds(args: &[String]) -> u64 {
    let mut words = args.iter();
    let given = words.find_map(|word| match word.strip_prefix("--seeds") {
        Some("") => Some(None),
        Some(rest) => Some(rest.strip_prefix('=').map(str::to_owned)),
        None => None,
    });
    given
        .and_then(|value| value.or_else(|| words.next().cloned()))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::seeds;

    #[test]
    fn the_number_of_seeds_is_found_in_both_spellings() {
        let count = |line: &str| seeds(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(count("--start 5 --seeds 1000000 --jobs 2"), 1_000_000);
        assert_eq!(count("--seeds=70"), 70);
        assert_eq!(count("--seed 1000000"), 0);
        assert_eq!(count("--seeds"), 0);
    }
}
