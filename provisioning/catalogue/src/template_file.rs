// SPDX-License-Identifier: Apache-2.0
//! `template.yaml`: a template as its vendor writes it.

use crate::yaml::YamlError;
use provisioning_protocol::ids::DiskName;
use provisioning_protocol::template::{TemplateRef, VmSpec};
use std::path::{Path, PathBuf};

/// File name in a template's folder.
pub const FILE_NAME: &str = "template.yaml";

/// A template read from a folder and found sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Name and release counter.
    pub template: TemplateRef,
    /// Oldest release that may still be installed once this one is published.
    pub min_version: u64,
    /// What the VM is.
    pub vm: VmSpec,
    /// Image files of the disks that have one, in the order of the disks.
    pub images: Vec<ImageFile>,
}

/// A raw disk image beside `template.yaml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// The disk it fills.
    pub disk: DiskName,
    /// Where it is; never outside the template's folder.
    pub path: PathBuf,
}

impl Template {
    /// Reads `template.yaml` of a folder.
    ///
    /// # Errors
    /// [`YamlError`] naming file, line and field.
    pub fn read(folder: &Path) -> Result<Self, YamlError> {
        todo!()
    }
}
