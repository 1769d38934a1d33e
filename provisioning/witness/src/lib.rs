// SPDX-License-Identifier: Apache-2.0
//! A witness on site: the same rule as HQ's ([`provisioning_protocol::witness`]), a log of its own,
//! and two routes over mutual TLS, for any box at the branch that is always on.
//!
//! | file | what |
//! | --- | --- |
//! | `store` | the record: a log of checksummed lines, synced before an answer leaves |
//! | `place` | whether the folder is still the one it was, or a copy put back |
//! | `bundle` | what HQ gives out for a box: certificate, key, and whom to trust |
//! | `tls` | who may speak: the two servers of this site |
//! | `serve` | the two routes, with a bound on everything |

pub mod bundle;
pub mod place;
pub mod serve;
pub mod store;
pub mod tls;
