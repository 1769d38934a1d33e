// SPDX-License-Identifier: Apache-2.0
//! The signed manifest of a template version: the TUF target `tpl/NAME/VERSION.json`.

use crate::chunks::{CHUNK_BYTES_MAX, ChunkHash, packed_bytes_max};
use crate::limits::{OutOfBounds, check_version, check_vm};
use provisioning_protocol::ids::DiskName;
use provisioning_protocol::template::{DiskRole, TemplateRef, VmSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest manifest, bytes: about 700,000 chunks, 22 GB of image data.
pub const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most extents of an image; what fits in a manifest.
pub const EXTENTS_MAX: usize = 1_000_000;
/// The form written and read here.
pub const FORMAT: u32 = 1;

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
        /// Packed bytes in the vendor's store (HQ's may differ by a few).
        stored: u32,
    },
    /// Zero bytes.
    Hole {
        /// How many.
        length: u64,
    },
}

impl Extent {
    /// Bytes of the image it covers.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Chunk { length, .. } => u64::from(*length),
            Self::Hole { length } => *length,
        }
    }
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than allowed.
    #[error("manifest is {got} bytes, at most {MANIFEST_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        got: usize,
    },
    /// No JSON of the expected shape.
    #[error("manifest cannot be read")]
    Parse(#[source] serde_json::Error),
    /// A value is out of bounds or does not fit the others.
    #[error("manifest field {field}: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<OutOfBounds> for ManifestError {
    fn from(err: OutOfBounds) -> Self {
        Self::Field { field: err.field, reason: err.reason }
    }
}

fn field(field: impl Into<String>, reason: impl Into<String>) -> ManifestError {
    ManifestError::Field { field: field.into(), reason: reason.into() }
}

impl ImageIndex {
    /// Extents with the offset of each.
    pub fn placed(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.extents.iter().scan(0_u64, |at, extent| {
            let offset = *at;
            *at += extent.length();
            Some((offset, *extent))
        })
    }
}

impl Manifest {
    /// Reads a manifest and checks every bound. Call it on verified bytes only.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        if u64::try_from(bytes.len()).is_ok_and(|len| len > MANIFEST_BYTES_MAX) {
            return Err(ManifestError::TooLong { got: bytes.len() });
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(ManifestError::Parse)?;
        wire.try_into()
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&Wire::from(self)).expect("plain data becomes JSON")
    }

    /// The image of the system disk.
    #[must_use]
    pub fn system_image(&self) -> &ImageIndex {
        &self.images[0]
    }

    /// Each distinct chunk and its packed size.
    #[must_use]
    pub fn chunks(&self) -> BTreeMap<ChunkHash, u32> {
        let extents = self.images.iter().flat_map(|image| &image.extents);
        extents
            .filter_map(|extent| match extent {
                Extent::Chunk { hash, stored, .. } => Some((*hash, *stored)),
                Extent::Hole { .. } => None,
            })
            .collect()
    }

    /// Packed bytes of all distinct chunks.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.chunks().values().map(|stored| u64::from(*stored)).sum()
    }

    /// Unpacked bytes of all images.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.images.iter().map(|image| image.size).sum()
    }
}

/// Written form, version 1.
#[derive(Serialize, Deserialize)]
struct Wire {
    v: u32,
    template: TemplateRef,
    min_version: u64,
    vm: VmSpec,
    images: Vec<WireImage>,
}

#[derive(Serialize, Deserialize)]
struct WireImage {
    disk: DiskName,
    size: u64,
    blake3: ChunkHash,
    extents: Vec<WireExtent>,
}

/// `{"c":["<hash>",length,stored]}` or `{"h":length}`: short, as there are many.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum WireExtent {
    #[serde(rename = "c")]
    Chunk(ChunkHash, u32, u32),
    #[serde(rename = "h")]
    Hole(u64),
}

impl From<&Manifest> for Wire {
    fn from(manifest: &Manifest) -> Self {
        let image = |image: &ImageIndex| WireImage {
            disk: image.disk.clone(),
            size: image.size,
            blake3: image.blake3,
            extents: image.extents.iter().map(|extent| (*extent).into()).collect(),
        };
        Self {
            v: FORMAT,
            template: manifest.template.clone(),
            min_version: manifest.min_version,
            vm: manifest.vm.clone(),
            images: manifest.images.iter().map(image).collect(),
        }
    }
}

impl From<Extent> for WireExtent {
    fn from(extent: Extent) -> Self {
        match extent {
            Extent::Chunk { hash, length, stored } => Self::Chunk(hash, length, stored),
            Extent::Hole { length } => Self::Hole(length),
        }
    }
}

impl From<WireExtent> for Extent {
    fn from(extent: WireExtent) -> Self {
        match extent {
            WireExtent::Chunk(hash, length, stored) => Self::Chunk { hash, length, stored },
            WireExtent::Hole(length) => Self::Hole { length },
        }
    }
}

impl TryFrom<Wire> for Manifest {
    type Error = ManifestError;

    fn try_from(wire: Wire) -> Result<Self, ManifestError> {
        if wire.v != FORMAT {
            return Err(field("v", format!("{} is not {FORMAT}", wire.v)));
        }
        check_version("template.version", wire.template.version.0)?;
        check_version("min_version", wire.min_version)?;
        if wire.min_version > wire.template.version.0 {
            return Err(field("min_version", "is above the version itself"));
        }
        check_vm(&wire.vm)?;
        let system = wire.vm.disks.iter().filter(|disk| disk.role == DiskRole::System);
        if wire.images.len() != system.clone().count() {
            return Err(field("images", "there must be one for the system disk, and no other"));
        }
        for (at, (image, disk)) in wire.images.iter().zip(system).enumerate() {
            if image.disk != disk.name || image.size != disk.size_bytes {
                return Err(field(format!("images[{at}]"), "does not fit the system disk"));
            }
            check_extents(at, image)?;
        }
        let images = wire.images.into_iter().map(|image| ImageIndex {
            disk: image.disk,
            size: image.size,
            blake3: image.blake3,
            extents: image.extents.into_iter().map(Extent::from).collect(),
        });
        Ok(Self {
            images: images.collect(),
            template: wire.template,
            min_version: wire.min_version,
            vm: wire.vm,
        })
    }
}

/// Every extent within bounds, together exactly the image, and each chunk of one length only.
fn check_extents(at: usize, image: &WireImage) -> Result<(), ManifestError> {
    if image.extents.len() > EXTENTS_MAX {
        return Err(field(format!("images[{at}].extents"), format!("more than {EXTENTS_MAX}")));
    }
    let mut lengths = BTreeMap::new();
    let mut covered = 0_u64;
    for (nr, extent) in image.extents.iter().enumerate() {
        let refuse = |reason: &str| field(format!("images[{at}].extents[{nr}]"), reason);
        if let WireExtent::Chunk(hash, length, stored) = extent {
            let unpacked = usize::try_from(*length).map_err(|_| refuse("is too long"))?;
            if unpacked == 0 || unpacked > CHUNK_BYTES_MAX {
                return Err(refuse("is empty or longer than a chunk can be"));
            }
            let fits = usize::try_from(*stored).is_ok_and(|s| s <= packed_bytes_max(unpacked));
            if *stored == 0 || !fits {
                return Err(refuse("is stored longer than it can be"));
            }
            if *lengths.entry(*hash).or_insert(*length) != *length {
                return Err(refuse("has another length than the same chunk before"));
            }
        }
        let length = Extent::from(*extent).length();
        covered = covered
            .checked_add(length)
            .filter(|sum| *sum <= image.size && length > 0)
            .ok_or_else(|| refuse("is empty or ends beyond the image"))?;
    }
    if covered == image.size {
        return Ok(());
    }
    let reason = format!("cover {covered} of {} bytes", image.size);
    Err(field(format!("images[{at}].extents"), reason))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::limits::tests::sound_vm;
    use provisioning_protocol::ids::TemplateName;
    use provisioning_protocol::template::TemplateVersion;
    use serde_json::{Value, json};

    /// A sound manifest of one chunk and one hole.
    pub(crate) fn sound(version: u64) -> Manifest {
        let hash = ChunkHash::of(&[7; 4096]);
        Manifest {
            template: TemplateRef {
                name: TemplateName::new("parts-counter").expect("a name"),
                version: TemplateVersion(version),
            },
            min_version: 1,
            vm: sound_vm(128 * 1024),
            images: vec![ImageIndex {
                disk: DiskName::new("system").expect("a name"),
                size: 128 * 1024,
                blake3: ChunkHash::of(b"whole"),
                extents: vec![
                    Extent::Chunk { hash, length: 4096, stored: 20 },
                    Extent::Hole { length: 124 * 1024 },
                ],
            }],
        }
    }

    #[test]
    fn a_manifest_survives_writing_and_reading() {
        let manifest = sound(3);
        assert_eq!(Manifest::from_json(&manifest.to_json()).expect("read"), manifest);
    }

    #[test]
    fn a_written_manifest_of_format_1_is_still_read() {
        let fixture = include_bytes!("../tests/data/manifest-1.json");
        assert_eq!(Manifest::from_json(fixture).expect("read"), sound(3));
    }

    #[test]
    fn manifests_out_of_bounds_are_refused() {
        let hash = ChunkHash::of(&[7; 4096]).to_string();
        let cases: [(&str, &str, Value); 14] = [
            ("/v", "v", json!(2)),
            ("/template/version", "template.version", json!(0)),
            ("/min_version", "min_version", json!(4)),
            ("/vm/memory_mib", "memory", json!(u64::MAX)),
            ("/vm/disks/0/size_bytes", "images[0]", json!(256 * 1024)),
            ("/images", "images", json!([])),
            ("/images/0/disk", "images[0]", json!("data")),
            ("/images/0/extents/1", "images[0].extents[1]", json!({"h": u64::MAX})),
            ("/images/0/extents/1", "images[0].extents", json!({"h": 1})),
            ("/images/0/extents/1", "images[0].extents[1]", json!({"h": 0})),
            ("/images/0/extents/0", "images[0].extents[0]", json!({"c": [hash, 131_073, 20]})),
            ("/images/0/extents/0", "images[0].extents[0]", json!({"c": [hash, 0, 20]})),
            ("/images/0/extents/0", "images[0].extents[0]", json!({"c": [hash, 4096, 9000]})),
            ("/images/0/extents/1", "images[0].extents[1]", json!({"c": [hash, 4095, 20]})),
        ];
        for (pointer, want, bad) in cases {
            let mut value: Value = serde_json::from_slice(&sound(3).to_json()).expect("JSON");
            *value.pointer_mut(pointer).expect("there") = bad.clone();
            let bytes = serde_json::to_vec(&value).expect("JSON");
            match Manifest::from_json(&bytes) {
                Err(ManifestError::Field { field, .. }) => assert_eq!(field, want, "{bad}"),
                other => panic!("{pointer} = {bad} gave {other:?}"),
            }
        }
        assert!(Manifest::from_json(b"{}").is_err());
        let name = json!("../x").to_string();
        let text = String::from_utf8(sound(3).to_json()).expect("utf-8");
        assert!(Manifest::from_json(text.replace("\"parts-counter\"", &name).as_bytes()).is_err());
    }
}
