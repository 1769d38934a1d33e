// SPDX-License-Identifier: Apache-2.0
//! `template.yaml`: a template as its vendor writes it.
//!
//! ```yaml
//! format: 1
//! name: parts-counter
//! release: 3            # counts up with every change
//! min_release: 2        # optional: older ones are withdrawn
//! firmware: bios        # or uefi
//! cpu: portable         # optional: the same on every server; or host: all it has, as AVX2
//! cpus: 1
//! memory: 192 MiB
//! disks:
//!   - {name: system, role: system, image: system.raw}
//!   - {name: data, role: data, size: 2 GiB}
//! nics: 1
//! probe: {http: {port: 80, path: /health}}   # or {tcp: {port: 22}}, or left out
//! variables:            # given per site; the value here is the default
//!   ADDRESS: ""
//! ```

use crate::limits::{OutOfBounds, check_version, check_vm};
use crate::yaml::{self, YamlError};
use provisioning_protocol::ids::{DiskName, TemplateName};
use provisioning_protocol::template::{
    CpuModel, DiskRole, DiskSpec, GuestFirmware, ProbeSpec, TemplateRef, TemplateVersion, VmSpec,
};
use serde::Deserialize;
use serde_yaml::Spanned;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// File name in a template's folder.
pub const FILE_NAME: &str = "template.yaml";
/// The form described here.
pub const FORMAT: u32 = 1;

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
    /// Its length in bytes.
    pub size: u64,
}

impl Template {
    /// Reads `template.yaml` of a folder and looks at the images it names.
    ///
    /// # Errors
    /// [`YamlError`] naming file, line and field.
    pub fn read(folder: &Path) -> Result<Self, YamlError> {
        Self::checked(yaml::read(&folder.join(FILE_NAME))?, folder)
    }

    /// The same from the file's text.
    ///
    /// # Errors
    /// As [`Template::read`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self, YamlError> {
        Self::checked(yaml::parse(text, &folder.join(FILE_NAME))?, folder)
    }

    fn checked(file: File, folder: &Path) -> Result<Self, YamlError> {
        let path = folder.join(FILE_NAME);
        let lines = file.lines();
        file.check(folder).map_err(|err| YamlError {
            file: path,
            line: line_of(&lines, &err.field),
            field: err.field,
            message: err.reason,
        })
    }
}

/// The line of a field, or of the nearest one around it.
fn line_of(lines: &BTreeMap<String, u64>, field: &str) -> Option<u64> {
    let mut path = field;
    loop {
        if let Some(line) = lines.get(path) {
            return Some(*line);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Spanned<u32>,
    name: TemplateName,
    release: Spanned<u64>,
    #[serde(default)]
    min_release: Option<Spanned<u64>>,
    firmware: GuestFirmware,
    #[serde(default)]
    cpu: CpuModel,
    cpus: Spanned<u32>,
    memory: Spanned<ByteSize>,
    disks: Spanned<Vec<Spanned<Disk>>>,
    nics: Spanned<u32>,
    #[serde(default)]
    probe: Option<Spanned<Probe>>,
    #[serde(default)]
    variables: BTreeMap<String, Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    name: DiskName,
    role: DiskRole,
    #[serde(default)]
    size: Option<Spanned<ByteSize>>,
    #[serde(default)]
    image: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Probe {
    Tcp(TcpProbe),
    Http(HttpProbe),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpProbe {
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpProbe {
    port: u16,
    path: String,
}

/// A size with its unit, such as `192 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct ByteSize(u64);

impl TryFrom<String> for ByteSize {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("\"{text}\" is no size: write it like 192 MiB or 2 GiB");
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let count: u64 = text[..unit_at].parse().map_err(|_| refuse())?;
        let shift = match text[unit_at..].trim() {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(refuse()),
        };
        count.checked_mul(1 << shift).map(Self).ok_or_else(refuse)
    }
}

impl File {
    fn lines(&self) -> BTreeMap<String, u64> {
        let mut lines = BTreeMap::new();
        let mut put = |field: &str, at: serde_yaml::Location| {
            lines.insert(field.to_owned(), at.line());
        };
        put("format", self.format.referenced);
        put("release", self.release.referenced);
        put("cpus", self.cpus.referenced);
        put("memory", self.memory.referenced);
        put("nics", self.nics.referenced);
        put("disks", self.disks.referenced);
        if let Some(min_release) = &self.min_release {
            put("min_release", min_release.referenced);
        }
        if let Some(probe) = &self.probe {
            put("probe", probe.referenced);
        }
        for (at, disk) in self.disks.value.iter().enumerate() {
            put(&format!("disks[{at}]"), disk.referenced);
            if let Some(size) = &disk.value.size {
                put(&format!("disks[{at}].size"), size.referenced);
            }
            if let Some(image) = &disk.value.image {
                put(&format!("disks[{at}].image"), image.referenced);
            }
        }
        for (name, value) in &self.variables {
            put(&format!("variables.{name}"), value.referenced);
        }
        lines
    }

    fn check(self, folder: &Path) -> Result<Template, OutOfBounds> {
        if self.format.value != FORMAT {
            let reason = format!("this program reads format {FORMAT} only");
            return Err(OutOfBounds::new("format", reason));
        }
        check_version("release", self.release.value)?;
        let min_version = self.min_release.map_or(1, |min| min.value);
        check_version("min_release", min_version)?;
        if min_version > self.release.value {
            return Err(OutOfBounds::new("min_release", "is above release itself"));
        }
        let mut disks = Vec::new();
        let mut images = Vec::new();
        for (at, disk) in self.disks.value.into_iter().enumerate() {
            let (spec, image) = check_disk(folder, at, disk.value)?;
            disks.push(spec);
            images.extend(image);
        }
        if !self.memory.value.0.is_multiple_of(1 << 20) {
            return Err(OutOfBounds::new("memory", "must be whole MiB"));
        }
        let vm = VmSpec {
            firmware: self.firmware,
            cpu: self.cpu,
            cpus: self.cpus.value,
            memory_mib: self.memory.value.0 >> 20,
            disks,
            nics: self.nics.value,
            probe: self.probe.map(|probe| match probe.value {
                Probe::Tcp(TcpProbe { port }) => ProbeSpec::Tcp { port },
                Probe::Http(HttpProbe { port, path }) => ProbeSpec::Http { port, path },
            }),
            variables: self.variables.into_iter().map(|(name, v)| (name, v.value)).collect(),
        };
        check_vm(&vm)?;
        let version = TemplateVersion(self.release.value);
        Ok(Template { template: TemplateRef { name: self.name, version }, min_version, vm, images })
    }
}

fn check_disk(
    folder: &Path,
    at: usize,
    disk: Disk,
) -> Result<(DiskSpec, Option<ImageFile>), OutOfBounds> {
    let field = |name: &str| format!("disks[{at}].{name}");
    let size = disk.size.map(|size| size.value.0);
    let Disk { name, role, .. } = disk;
    let (size_bytes, image) = match (role, disk.image) {
        (DiskRole::Data, Some(_)) => {
            return Err(OutOfBounds::new(
                field("image"),
                "a data disk starts empty, without image",
            ));
        }
        (DiskRole::System, None) => {
            return Err(OutOfBounds::new(field("image"), "a system disk needs an image"));
        }
        (DiskRole::Data, None) => {
            (size.ok_or_else(|| OutOfBounds::new(field("size"), "a data disk needs a size"))?, None)
        }
        (DiskRole::System, Some(image)) => {
            let (path, length) = image_file(folder, &image.value)
                .map_err(|reason| OutOfBounds::new(field("image"), reason))?;
            if let Some(size) = size.filter(|size| *size != length) {
                let reason = format!("{size} bytes, but the image has {length}");
                return Err(OutOfBounds::new(field("size"), reason));
            }
            (length, Some(ImageFile { disk: name.clone(), path, size: length }))
        }
    };
    Ok((DiskSpec { name, role, size_bytes }, image))
}

/// Path and length of an image, which must lie in the folder.
fn image_file(folder: &Path, name: &str) -> Result<(PathBuf, u64), String> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !inside {
        return Err(format!("\"{name}\" must be a path inside the template's folder"));
    }
    let unreadable = |err: std::io::Error| format!("{name} cannot be read: {err}");
    let path = folder.join(name).canonicalize().map_err(unreadable)?;
    let folder = folder.canonicalize().map_err(unreadable)?;
    if !path.starts_with(&folder) {
        return Err(format!("{name} leads out of the template's folder"));
    }
    let meta = std::fs::metadata(&path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(format!("{name} is no file"));
    }
    Ok((path, meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
format: 1
name: parts-counter
release: 3
firmware: bios
cpus: 1
memory: 192 MiB
disks:
  - name: system
    role: system
    image: system.raw
  - name: data
    role: data
    size: 2 GiB
nics: 1
probe: {http: {port: 80, path: /health}}
variables:
  ADDRESS: \"\"
";

    fn read(text: &str) -> Result<Template, String> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE_NAME), text).expect("written");
        std::fs::write(folder.path().join("system.raw"), vec![1; 128 * 1024]).expect("written");
        Template::read(folder.path()).map_err(|err| {
            err.to_string().replace(folder.path().to_str().expect("utf-8"), "").replacen('/', "", 1)
        })
    }

    #[test]
    fn a_sound_file_is_read() {
        let template = read(GOOD).expect("read");
        assert_eq!(template.template.to_string(), "parts-counter@3");
        assert_eq!(template.vm.memory_mib, 192);
        assert_eq!(template.vm.disks[0].size_bytes, 128 * 1024);
        assert_eq!(template.vm.disks[1].size_bytes, 2 << 30);
        assert_eq!(template.images.len(), 1);
    }

    #[test]
    fn each_bad_file_is_refused_with_file_line_and_field() {
        let cases = [
            ("release: 3", "release: 0", "template.yaml:3: release: 0 is not within"),
            ("release: 3", "release: three", "template.yaml:3: release: "),
            ("release: 3", "relase: 3", "template.yaml:3: relase: unknown field"),
            ("format: 1", "format: 2", "template.yaml:1: format: "),
            ("name: parts-counter", "name: Parts/..", "template.yaml:2: name: "),
            ("cpus: 1", "cpu: fast\ncpus: 1", "template.yaml:5: cpu: "),
            ("cpus: 1", "cpus: 4096", "template.yaml:5: cpus: "),
            ("cpus: 1", "cpus: 1\ncpus: 2", "template.yaml:6: "),
            ("192 MiB", "9999999 GiB", "template.yaml:6: memory: "),
            ("192 MiB", "99999999999999999999 GiB", "template.yaml:6: memory: "),
            ("192 MiB", "192", "template.yaml:6: memory: "),
            ("2 GiB", "900 TiB", "template.yaml:13: disks[1].size: "),
            ("2 GiB", "65 KiB", "template.yaml:13: disks[1].size: "),
            ("image: system.raw", "image: ../system.raw", "template.yaml:10: disks[0].image: "),
            ("image: system.raw", "image: /etc/passwd", "template.yaml:10: disks[0].image: "),
            ("image: system.raw", "image: other.raw", "template.yaml:10: disks[0].image: "),
            ("image: system.raw", "size: 1 MiB", "template.yaml:8: disks[0].image: "),
            ("    size: 2 GiB\n", "", "template.yaml:11: disks[1].size: "),
            ("nics: 1", "nics: -1", "template.yaml:14: nics: "),
            ("port: 80", "port: 80000", "template.yaml:15: probe.http.port: "),
            ("http: {port: 80, path: /health}", "icmp: {}", "template.yaml:15: probe"),
            ("ADDRESS:", "address:", "template.yaml:17: variables.address: "),
            ("nics: 1\n", "", "missing field `nics`"),
        ];
        for (old, new, want) in cases {
            let got = read(&GOOD.replace(old, new)).expect_err("refused");
            assert!(got.contains(want), "{new:?} gave {got:?}, not {want:?}");
        }
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE_NAME), GOOD).expect("written");
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("system.raw"))
            .expect("made");
        let err = Template::read(folder.path()).expect_err("refused").to_string();
        assert!(err.contains("leads out"), "{err}");
    }
}
