// SPDX-License-Identifier: Apache-2.0
//! The catalogue: how a VM template is written, cut into chunks, signed, published, checked and
//! fetched.
//!
//! ```text
//!  vendor's desk (offline)             HQ (online)                  a server of a site
//!  template.yaml + system.raw
//!    └ build ─► manifest + chunks ───► repository (static files) ─► client: metadata, manifest
//!    └ signing (offline keys)                + snapshot, timestamp  fetch: chunks ─► its volume
//!         └ targets.json ────────────► verified, then published     local: serves the peer
//! ```
//!
//! - The *manifest* of a template version is one TUF target: what the VM is, and the list of
//!   chunks each of its images is made of. Nothing unsigned is ever parsed but TUF metadata itself.
//! - A *chunk* is a run of image bytes cut by content, named by the BLAKE3 hash of those bytes,
//!   stored as one zstd frame. Chunks are static files; whoever serves them needs no trust.
//! - Runs of zero bytes are holes and have no chunk.
//!
//! | who | uses |
//! | --- | --- |
//! | CLI | [`yaml`], [`build`], [`keys::OfflineKeys`], [`signing`] |
//! | HQ | [`keys::OnlineKeys`], [`repository`] |
//! | agent | [`client`], [`fetch`], [`local`] |

pub mod build;
pub mod chunks;
pub mod client;
pub mod fetch;
pub mod keys;
pub mod limits;
pub mod local;
pub mod manifest;
pub mod repository;
pub mod signing;
pub mod source;
pub mod template_file;
#[cfg(test)]
mod test_server;
pub mod yaml;
