// SPDX-License-Identifier: Apache-2.0
//! Serves the peer from this server's own sealed template volumes.

use crate::chunks::{ChunkError, ChunkHash, PEER_LEVEL, pack};
use crate::manifest::{Extent, ImageIndex};
use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Where each chunk of the sealed images lies. Answers `GET /chunks/<hex>`.
#[derive(Debug, Default, Clone)]
pub struct LocalChunks {
    volumes: HashMap<PathBuf, HashMap<ChunkHash, (u64, u32)>>,
}

impl LocalChunks {
    /// Adds a sealed image.
    pub fn add(&mut self, volume: &Path, image: &ImageIndex) {
        let places = image.placed().filter_map(|(offset, extent)| match extent {
            Extent::Chunk { hash, length, .. } => Some((hash, (offset, length))),
            Extent::Hole { .. } => None,
        });
        self.volumes.insert(volume.to_path_buf(), places.collect());
    }

    /// Forgets a volume.
    pub fn remove(&mut self, volume: &Path) {
        self.volumes.remove(volume);
    }

    /// The packed chunk: the body of the answer; `None` is a 404. Reads the disk: call it off the
    /// async threads. Bytes that no longer match are not served.
    ///
    /// # Errors
    /// [`ChunkError`] if the volume cannot be read or has changed.
    pub fn packed(&self, hash: &ChunkHash) -> Result<Option<Vec<u8>>, ChunkError> {
        let mut volumes = self.volumes.iter();
        let Some((volume, (offset, length))) =
            volumes.find_map(|(volume, places)| Some((volume, *places.get(hash)?)))
        else {
            return Ok(None);
        };
        let unreadable = |source| ChunkError::Io { path: volume.clone(), source };
        let mut bytes = vec![0; usize::try_from(length).expect("a chunk's length fits")];
        let file = std::fs::File::open(volume).map_err(unreadable)?;
        file.read_exact_at(&mut bytes, offset).map_err(unreadable)?;
        if ChunkHash::of(&bytes) != *hash {
            return Err(ChunkError::Differs { hash: *hash });
        }
        Ok(Some(pack(&bytes, PEER_LEVEL)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::{build_bytes, noise};
    use crate::chunks::unpack;

    #[test]
    fn every_chunk_of_a_sealed_image_is_served_and_changed_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bytes = noise("a", 1 << 20);
        let manifest = build_bytes(folder.path(), 1, &bytes);
        let volume = folder.path().join("volume");
        std::fs::write(&volume, &bytes).expect("written");
        let mut local = LocalChunks::default();
        local.add(&volume, manifest.system_image());
        for (_, extent) in manifest.system_image().placed() {
            let Extent::Chunk { hash, length, .. } = extent else { panic!("noise has no hole") };
            let packed = local.packed(&hash).expect("read").expect("there");
            unpack(&hash, usize::try_from(length).expect("fits"), &packed).expect("the chunk");
        }
        assert!(matches!(local.packed(&ChunkHash::of(b"none")), Ok(None)));
        bytes[0] ^= 1;
        std::fs::write(&volume, &bytes).expect("written");
        let first =
            manifest.chunks().into_keys().find(|hash| {
                manifest.system_image().extents.first().is_some_and(
                    |extent| matches!(extent, Extent::Chunk { hash: h, .. } if h == hash),
                )
            });
        let first = first.expect("a first chunk");
        assert!(matches!(local.packed(&first), Err(ChunkError::Differs { .. })));
        local.remove(&volume);
        assert!(matches!(local.packed(&first), Ok(None)));
    }
}
