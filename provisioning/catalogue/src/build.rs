// SPDX-License-Identifier: Apache-2.0
//! Builds a template folder into a manifest and chunks.

use crate::chunks::{ChunkError, ChunkStore};
use crate::manifest::Manifest;
use crate::template_file::Template;
use std::path::PathBuf;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildProgress {
    /// Image bytes done.
    pub done: u64,
    /// Image bytes in all.
    pub total: u64,
    /// Chunks new to the store so far.
    pub new_chunks: u64,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An image cannot be read.
    #[error("image {path} cannot be read")]
    Image {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// An image is not as long as its disk.
    #[error("image {path} is {got} bytes, but its disk has {want}")]
    Size { path: PathBuf, got: u64, want: u64 },
    /// The chunk store failed.
    #[error("chunk of {path} cannot be stored")]
    Store {
        path: PathBuf,
        #[source]
        source: ChunkError,
    },
}

/// Cuts the images of a template into the store and returns the manifest to sign.
///
/// # Errors
/// [`BuildError`].
pub fn build(
    template: &Template,
    store: &ChunkStore,
    progress: &mut dyn FnMut(BuildProgress),
) -> Result<Manifest, BuildError> {
    todo!()
}
