// SPDX-License-Identifier: Apache-2.0
//! A model of a site for the checker `stateright`: the real cores of two servers, every order of what
//! is on its way between them, the witnesses and their disks, and a few faults at any of these moments.
//!
//! It begins with a healthy pair, or with what else [`Begin`] names. Time goes on in rounds of half a
//! second; in each, both agents tick, the kernels look at their links, and the guest writes. What the
//! rest of a server does by itself happens in a fixed order, since nothing outside can tell;
//! datagrams with news, swaps at a witness and their answers, writes of the durable state, and
//! helper answers wait until the checker says which comes next, late, twice or never, and crashes
//! come between them.

mod begin;
mod faults;
mod kernel;
mod model;
mod promises;
mod rounds;
mod rules;
mod shell;
mod site;
mod witness;

pub use faults::{Fault, Step};
pub use model::{Checked, Finding, check};
pub use promises::PROMISES;
pub use rules::{Begin, Bounds, Mutation};
