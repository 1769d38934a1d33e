// SPDX-License-Identifier: Apache-2.0
//! A witness on site: the same rule as HQ's ([`provisioning_protocol::witness`]), a log of its own,
//! and two routes over mutual TLS, for any box at the branch that is always on.
//!
//! | file | what |
//! | --- | --- |
//! | `store` | the record: a log of checksummed lines, synced before an answer leaves |
//! | `place` | whether the folder is still the one it was, or a copy put back |
//! | `keys` | the box's two keys: one ends TLS, one signs replies |
//! | `enrol`, `pin` | being let in by HQ with a claim code |
//! | `identity`, `file` | what is kept of that |
//! | `sign` | signing a reply; HQ's witness does it by the same code |
//! | `tls` | who may speak: the two servers of this site |
//! | `serve` | the two routes, with a bound on everything |

pub mod enrol;
pub mod file;
pub mod identity;
pub mod keys;
pub mod pin;
pub mod place;
pub mod serve;
pub mod sign;
pub mod store;
pub mod tls;
