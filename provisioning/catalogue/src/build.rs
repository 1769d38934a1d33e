// SPDX-License-Identifier: Apache-2.0
//! Builds a template folder into a manifest and chunks.

use crate::chunks::{
    CHUNK_BYTES_AVG, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, ChunkError, ChunkHash, ChunkStore,
};
use crate::manifest::{Extent, ImageIndex, Manifest};
use crate::template_file::{ImageFile, Template};
use fastcdc::v2020::FastCDC;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Zero bytes are looked for in steps of a page.
const BLOCK_BYTES: usize = 4096;
/// Shorter zero runs stay in their chunk: a hole entry and the cuts around it cost more.
const HOLE_BYTES_MIN: u64 = 16 * 1024;
/// Data gathered before it is cut; more only costs memory.
const GATHER_BYTES: usize = 4 * 1024 * 1024;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BuildProgress {
    /// Image bytes done.
    pub done: u64,
    /// Image bytes in all.
    pub total: u64,
    /// Chunks so far.
    pub chunks: u64,
    /// Of these, new to the store.
    pub new_chunks: u64,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// An image cannot be read.
    #[error("image {path} cannot be read")]
    Image {
        /// The image.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// An image changed while it was read.
    #[error("image {path} is {got} bytes, but it had {want}")]
    Size {
        /// The image.
        path: PathBuf,
        /// Bytes read.
        got: u64,
        /// Bytes expected.
        want: u64,
    },
    /// The chunk store failed.
    #[error("a chunk of {path} cannot be stored")]
    Store {
        /// The image.
        path: PathBuf,
        /// Why.
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
    let total = template.images.iter().map(|image| image.size).sum();
    let mut seen = BuildProgress { total, ..BuildProgress::default() };
    let mut images = Vec::new();
    for image in &template.images {
        images.push(cut_image(image, store, &mut seen, progress)?);
    }
    Ok(Manifest {
        template: template.template.clone(),
        min_version: template.min_version,
        vm: template.vm.clone(),
        images,
    })
}

fn cut_image(
    image: &ImageFile,
    store: &ChunkStore,
    seen: &mut BuildProgress,
    progress: &mut dyn FnMut(BuildProgress),
) -> Result<ImageIndex, BuildError> {
    let unreadable = |source| BuildError::Image { path: image.path.clone(), source };
    let mut file = File::open(&image.path).map_err(unreadable)?;
    let mut cutter = Cutter::new(store, &image.path);
    let mut whole = blake3::Hasher::new();
    let mut buffer = vec![0; 256 * BLOCK_BYTES];
    let mut length = 0_u64;
    loop {
        let got = read_full(&mut file, &mut buffer).map_err(unreadable)?;
        if got == 0 {
            break;
        }
        whole.update(&buffer[..got]);
        for block in buffer[..got].chunks(BLOCK_BYTES) {
            cutter.take(block)?;
        }
        length += u64::try_from(got).expect("a buffer's length fits");
        seen.done += u64::try_from(got).expect("a buffer's length fits");
        progress(BuildProgress {
            chunks: seen.chunks + cutter.chunks,
            new_chunks: seen.new_chunks + cutter.new_chunks,
            ..*seen
        });
    }
    if length != image.size {
        let path = image.path.clone();
        return Err(BuildError::Size { path, got: length, want: image.size });
    }
    cutter.finish()?;
    seen.chunks += cutter.chunks;
    seen.new_chunks += cutter.new_chunks;
    Ok(ImageIndex {
        disk: image.disk.clone(),
        size: length,
        blake3: whole.finalize().into(),
        extents: cutter.extents,
    })
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}

/// Takes an image block by block; gives extents, and chunks to the store.
struct Cutter<'a> {
    store: &'a ChunkStore,
    image: &'a Path,
    /// Data not cut yet.
    data: Vec<u8>,
    /// Zero bytes since the last data block, not decided yet.
    zeros: u64,
    extents: Vec<Extent>,
    chunks: u64,
    new_chunks: u64,
}

impl<'a> Cutter<'a> {
    fn new(store: &'a ChunkStore, image: &'a Path) -> Self {
        let (data, extents) = (Vec::new(), Vec::new());
        Self { store, image, data, zeros: 0, extents, chunks: 0, new_chunks: 0 }
    }

    fn take(&mut self, block: &[u8]) -> Result<(), BuildError> {
        if block.iter().all(|byte| *byte == 0) {
            self.zeros += u64::try_from(block.len()).expect("a block's length fits");
            return Ok(());
        }
        self.settle_zeros()?;
        self.data.extend_from_slice(block);
        if self.data.len() >= GATHER_BYTES {
            self.cut(false)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BuildError> {
        self.settle_zeros()?;
        self.cut(true)
    }

    /// A long zero run becomes a hole, a short one stays data.
    fn settle_zeros(&mut self) -> Result<(), BuildError> {
        let length = std::mem::take(&mut self.zeros);
        if length >= HOLE_BYTES_MIN {
            self.cut(true)?;
            self.extents.push(Extent::Hole { length });
        } else {
            let filled = usize::try_from(length).expect("shorter than a hole");
            self.data.resize(self.data.len() + filled, 0);
        }
        Ok(())
    }

    /// Cuts the gathered data. Unless this is its end, the last piece stays: more may belong to it.
    fn cut(&mut self, end: bool) -> Result<(), BuildError> {
        let data = std::mem::take(&mut self.data);
        let mut done = 0;
        for piece in FastCDC::new(&data, CHUNK_BYTES_MIN, CHUNK_BYTES_AVG, CHUNK_BYTES_MAX) {
            let next = piece.offset + piece.length;
            if next == data.len() && !end {
                break;
            }
            self.push(&data[piece.offset..next])?;
            done = next;
        }
        self.data = data[done..].to_vec();
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        let hash = ChunkHash::of(bytes);
        let is_new = self.store.packed_len(&hash).is_none();
        let stored = self
            .store
            .add(&hash, bytes)
            .map_err(|source| BuildError::Store { path: self.image.to_path_buf(), source })?;
        self.chunks += 1;
        self.new_chunks += u64::from(is_new);
        self.extents.push(Extent::Chunk {
            hash,
            length: u32::try_from(bytes.len()).expect("at most CHUNK_BYTES_MAX"),
            stored: u32::try_from(stored).expect("bounded by CHUNK_BYTES_MAX"),
        });
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::tests::sound_vm;
    use provisioning_protocol::ids::{DiskName, TemplateName};
    use provisioning_protocol::template::{TemplateRef, TemplateVersion};

    /// Bytes that do not compress and are the same each time.
    pub(crate) fn noise(seed: &str, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Builds an image of these bytes.
    pub(crate) fn build_bytes(folder: &Path, version: u64, bytes: &[u8]) -> Manifest {
        let path = folder.join("system.raw");
        std::fs::write(&path, bytes).expect("written");
        let size = u64::try_from(bytes.len()).expect("fits");
        let template = Template {
            template: TemplateRef {
                name: TemplateName::new("parts-counter").expect("a name"),
                version: TemplateVersion(version),
            },
            min_version: 1,
            vm: sound_vm(size),
            images: vec![ImageFile { disk: DiskName::new("system").expect("a name"), path, size }],
        };
        let store = ChunkStore::open(&folder.join("chunks")).expect("opened");
        build(&template, &store, &mut |_| {}).expect("built")
    }

    fn rebuilt(folder: &Path, manifest: &Manifest) -> Vec<u8> {
        let store = ChunkStore::open(&folder.join("chunks")).expect("opened");
        let mut bytes = Vec::new();
        for extent in &manifest.system_image().extents {
            match extent {
                Extent::Hole { length } => {
                    bytes.resize(bytes.len() + usize::try_from(*length).expect("fits"), 0);
                }
                Extent::Chunk { hash, length, .. } => {
                    let packed = store.read_packed(hash).expect("there");
                    let length = usize::try_from(*length).expect("fits");
                    bytes.extend(crate::chunks::unpack(hash, length, &packed).expect("good"));
                }
            }
        }
        bytes
    }

    #[test]
    fn chunks_and_holes_give_back_the_image() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut image = noise("a", 9 << 20);
        image[1 << 20..3 << 20].fill(0);
        image[(4 << 20) + 4096..(4 << 20) + 8192].fill(0);
        let at = image.len() - 40_960;
        image[at..].fill(0);
        let manifest = build_bytes(folder.path(), 1, &image);
        assert_eq!(rebuilt(folder.path(), &manifest), image);
        assert_eq!(manifest.system_image().blake3, ChunkHash::of(&image));
        Manifest::from_json(&manifest.to_json()).expect("within its own bounds");
        let holes: Vec<u64> = manifest
            .system_image()
            .extents
            .iter()
            .filter(|extent| matches!(extent, Extent::Hole { .. }))
            .map(Extent::length)
            .collect();
        assert_eq!(holes, [2 << 20, 40_960]);
    }

    #[test]
    fn an_image_of_zeros_needs_no_chunk() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = build_bytes(folder.path(), 1, &vec![0; 1 << 20]);
        assert_eq!(manifest.system_image().extents, [Extent::Hole { length: 1 << 20 }]);
    }

    #[test]
    fn inserted_bytes_change_few_chunks() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut image = noise("b", 8 << 20);
        let old = build_bytes(folder.path(), 1, &image).chunks();
        image.splice(100_000..100_000, noise("c", 4096));
        image.truncate(8 << 20);
        let new = build_bytes(folder.path(), 2, &image).chunks();
        let fresh = new.keys().filter(|hash| !old.contains_key(hash)).count();
        assert!(fresh <= 6, "{fresh} of {} chunks are new", new.len());
    }

    #[test]
    fn an_image_that_shrank_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("system.raw");
        std::fs::write(&path, vec![1; 8191]).expect("written");
        let store = ChunkStore::open(folder.path()).expect("opened");
        let disk = DiskName::new("system").expect("a name");
        let image = ImageFile { disk, path, size: 8192 };
        let err = cut_image(&image, &store, &mut BuildProgress::default(), &mut |_| {});
        assert!(matches!(err, Err(BuildError::Size { got: 8191, want: 8192, .. })));
    }
}
