// SPDX-License-Identifier: Apache-2.0
//! Makes a failing run small enough to be read: leaves out whatever it fails without, in the same
//! way (delta debugging: Zeller and Hildebrandt, 2002).

use crate::opts::{Failure, Less, Opts};
use crate::run_less;

/// Times with faults that are tried, milliseconds, shortest first.
const FAULT_MS: [u64; 4] = [15_000, 30_000, 60_000, 120_000];

/// The smallest run found that breaks the same promise, with its trace; `None` if the seed holds.
#[must_use]
pub fn shrink(seed: u64, opts: Opts) -> Option<Failure> {
    let mut small = Small::new(seed, opts)?;
    small.shorter();
    small.without(|less| less.loss = true);
    small.without(|less| less.vms = true);
    small.fewer_faults();
    small.without(|less| less.loss = true);
    small.without(|less| less.vms = true);
    run_less(seed, Opts { trace: true, ..small.opts }, small.less).err()
}

struct Small {
    opts: Opts,
    less: Less,
    failure: Failure,
}

impl Small {
    fn new(seed: u64, opts: Opts) -> Option<Self> {
        let opts = Opts { trace: false, ..opts };
        let failure = run_less(seed, opts, Less::default()).err()?;
        Some(Self { opts, less: Less::default(), failure })
    }

    /// Keeps the smaller run if it fails alike.
    fn take_if_alike(&mut self, opts: Opts, less: Less) -> bool {
        let failure = run_less(self.failure.seed, opts, less.clone()).err();
        let alike = failure.filter(|failure| promise(failure) == promise(&self.failure));
        if let Some(failure) = alike {
            *self = Self { opts, less, failure };
            return true;
        }
        false
    }

    fn shorter(&mut self) {
        for fault_ms in FAULT_MS {
            let opts = Opts { fault_ms, ..self.opts };
            if self.take_if_alike(opts, self.less.clone()) {
                return;
            }
        }
    }

    fn without(&mut self, change: impl FnOnce(&mut Less)) {
        let mut less = self.less.clone();
        change(&mut less);
        self.take_if_alike(self.opts, less);
    }

    /// Leaves out half of the faults, then quarters, down to single ones. A smaller run may fail
    /// later and meet faults that the larger one did not reach.
    fn fewer_faults(&mut self) {
        let mut size = self.failure.caused.len().div_ceil(2);
        while size > 0 {
            let mut kept = 0;
            while kept < self.failure.caused.len() {
                let mut less = self.less.clone();
                less.faults.extend(self.failure.caused[kept..].iter().take(size));
                if !self.take_if_alike(self.opts, less) {
                    kept += size;
                }
            }
            size /= 2;
        }
    }
}

/// Which promise was broken: what stands before the colon.
fn promise(failure: &Failure) -> &str {
    failure.what.split(':').next().unwrap_or_default()
}
