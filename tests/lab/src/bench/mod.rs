// SPDX-License-Identifier: Apache-2.0
//! Measurements on real machines.

mod bmc;
pub mod boot;
mod cold;
mod drain;
pub mod failover;
mod link_cut;
mod on_site;
pub mod peers;
pub mod sample;
mod wan_down;
mod wan_up;

use serde::Serialize;

/// Smallest, middle and largest value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub p50: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let p50 = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Self { min: sorted[0], p50, max: sorted[last] }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.min, spread.p50, spread.max), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(&[7.0]).p50, 7.0);
    }
}
