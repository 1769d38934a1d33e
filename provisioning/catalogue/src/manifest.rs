// SPDX-License-Identifier: Apache-2.0
//! The signed manifest of a template version: the TUF target `tpl/NAME/VERSION.json`.

use crate::chunks::ChunkHash;
use provisioning_protocol::ids::DiskName;
use provisioning_protocol::template::{TemplateRef, VmSpec};
use std::collections::BTreeMap;

/// Longest manifest, bytes: about 700,000 chunks, 22 GB of image data.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A template version: what it runs and what its images are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name and version.
    pub template: TemplateRef,
    /// Oldest version that may still be installed.
    pub min_version: u64,
    /// The VM.
    pub vm: VmSpec,
    /// Images of its disks; today exactly one, of the system disk.
    pub images: Vec<ImageIndex>,
}

/// What an image is made of, from its first byte to its last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageIndex {
    /// The disk it fills.
    pub disk: DiskName,
    /// Size of the image in bytes; equals the disk's size.
    pub size: u64,
    /// BLAKE3 of the whole image.
    pub blake3: ChunkHash,
    /// Its parts in order, without gaps.
    pub extents: Vec<Extent>,
}

/// A run of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bytes held by a chunk.
    Chunk {
        /// Its name.
        hash: ChunkHash,
        /// Unpacked bytes.
        length: u32,
        /// Packed bytes in HQ's store.
        stored: u32,
    },
    /// Zero bytes.
    Hole {
        /// How many.
        length: u64,
    },
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than allowed.
    #[error("manifest is {got} bytes, at most {MANIFEST_BYTES_MAX} are allowed")]
    TooLong { got: u64 },
    /// No JSON of the expected shape.
    #[error("manifest cannot be read")]
    Parse(#[source] serde_json::Error),
    /// A value is out of bounds or does not fit the others.
    #[error("manifest field {field}: {reason}")]
    Field { field: String, reason: String },
}

impl Manifest {
    /// Reads a manifest and checks every bound. Call it on verified bytes only.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        todo!()
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        todo!()
    }

    /// The image of the system disk.
    #[must_use]
    pub fn system_image(&self) -> &ImageIndex {
        &self.images[0]
    }

    /// Each distinct chunk and its packed size.
    #[must_use]
    pub fn chunks(&self) -> BTreeMap<ChunkHash, u32> {
        todo!()
    }

    /// Packed bytes of all distinct chunks.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        todo!()
    }

    /// Unpacked bytes of all images.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        todo!()
    }
}
