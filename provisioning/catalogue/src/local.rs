// SPDX-License-Identifier: Apache-2.0
//! Serves the peer from this server's own sealed template volumes.

use crate::chunks::{ChunkError, ChunkHash};
use crate::manifest::ImageIndex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where each chunk of the sealed images lies. Answers `GET /chunks/<hex>`.
#[derive(Debug, Default, Clone)]
pub struct LocalChunks {
    places: HashMap<ChunkHash, (PathBuf, u64, u32)>,
}

impl LocalChunks {
    /// Adds a sealed image.
    pub fn add(&mut self, volume: &Path, image: &ImageIndex) {
        todo!()
    }

    /// Forgets a volume.
    pub fn remove(&mut self, volume: &Path) {
        todo!()
    }

    /// The packed chunk: the body of the answer; `None` is a 404. Reads the disk: call it off the
    /// async threads. Bytes that no longer match are not served.
    ///
    /// # Errors
    /// [`ChunkError`] if the volume cannot be read or has changed.
    pub fn packed(&self, hash: &ChunkHash) -> Result<Option<Vec<u8>>, ChunkError> {
        todo!()
    }
}
