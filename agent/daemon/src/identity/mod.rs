// SPDX-License-Identifier: Apache-2.0
//! Who this server is: keys, hardware facts, the claim stick, the enrolment record, its clock.

pub mod clock;
pub mod hardware;
pub mod key;
pub mod record;
pub mod stick;
