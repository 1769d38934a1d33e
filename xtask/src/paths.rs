// SPDX-License-Identifier: Apache-2.0
//! Where things are, from the workspace root down.

use std::path::{Path, PathBuf};

/// The workspace root: the folder above this crate.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_path_buf()
}

/// Cargo's target folder, honouring `CARGO_TARGET_DIR`.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What is kept per user between checkouts.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.unwrap_or_else(|| target().join("cache")).join("forecourt")
}

/// The tools the OS image is built with, once it was built.
pub fn build_tools() -> PathBuf {
    cache().join("cache/tools.cache")
}

/// Tools built once per user and kept between checkouts.
pub fn tool_cache() -> PathBuf {
    cache().join("tools")
}
