// SPDX-License-Identifier: Apache-2.0
//! What a VM is, as a signed template says it and as HQ assigns it.

use crate::ids::{DiskName, TemplateName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A template's release: counts up, and is what "newer" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TemplateVersion(pub u64);

impl fmt::Display for TemplateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A template at one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Name in the catalogue.
    pub name: TemplateName,
    /// Release counter.
    pub version: TemplateVersion,
}

impl TemplateRef {
    /// TUF target name of the signed manifest: `tpl/NAME/VERSION.json`.
    #[must_use]
    pub fn target_name(&self) -> String {
        format!("tpl/{}/{}.json", self.name, self.version)
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// Firmware the guest boots with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestFirmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// What a disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskRole {
    /// Made from the template's image; replaced by an upgrade.
    System,
    /// Empty at first; kept by an upgrade.
    Data,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Name within the VM.
    pub name: DiskName,
    /// System or data.
    pub role: DiskRole,
    /// Size the guest sees, bytes; a multiple of 4 KiB.
    pub size_bytes: u64,
}

/// How the agent learns that the VM is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProbeSpec {
    /// A TCP connection to this port succeeds.
    Tcp {
        /// Port.
        port: u16,
    },
    /// An HTTP GET answers 200.
    Http {
        /// Port.
        port: u16,
        /// Absolute path.
        path: String,
    },
}

/// Processor the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuModel {
    /// The same on every server since about 2010 (x86-64-v2 and AES), so that a VM finds the
    /// processor it knows wherever it runs.
    #[default]
    Portable,
    /// All the server has: for guests that need more, such as AVX2.
    Host,
}

/// The VM a template describes (the signed manifest's `vm` part).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Guest firmware.
    pub firmware: GuestFirmware,
    /// Processor.
    #[serde(default)]
    pub cpu: CpuModel,
    /// Virtual CPUs, 1–64.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Disks; exactly one has role `system` and comes first.
    pub disks: Vec<DiskSpec>,
    /// NICs on the site's LAN, 0–4.
    pub nics: u32,
    /// Health probe, if the template has one.
    pub probe: Option<ProbeSpec>,
    /// Names of per-site variables the VM wants (NoCloud `user-data` as `KEY=value` lines under
    /// `forecourt:`), with defaults.
    pub variables: BTreeMap<String, String>,
}
