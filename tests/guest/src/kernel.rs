// SPDX-License-Identifier: Apache-2.0
//! Debian's cloud kernel: found, downloaded (not installed) and unpacked.

use crate::run::run;
use anyhow::{Context as _, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub struct Kernel {
    /// Package name, such as `linux-image-6.1.0-56-cloud-amd64`.
    pub package: String,
    /// The kernel itself.
    pub vmlinuz: PathBuf,
    modules: BTreeMap<String, PathBuf>,
    builtin: String,
}

/// Finds the kernel in the cache, or downloads it there.
pub fn find(cache: &Path) -> anyhow::Result<Kernel> {
    std::fs::create_dir_all(cache).with_context(|| format!("Making {}", cache.display()))?;
    let package = match wanted() {
        Ok(package) => package,
        Err(err) => newest_unpacked(cache)?.ok_or(err)?,
    };
    let folder = cache.join(&package);
    if !folder.is_dir() {
        download(cache, &package, &folder)?;
    }
    Kernel::open(package, &folder)
}

/// The kernel Debian's meta package asks for today.
fn wanted() -> anyhow::Result<String> {
    let text = run(Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]))?;
    let depends = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut kernels = depends.filter(|name| name.starts_with("linux-image-"));
    let kernel = kernels.next().context("apt knows no cloud kernel: run apt-get update")?;
    Ok(kernel.to_owned())
}

fn newest_unpacked(cache: &Path) -> anyhow::Result<Option<String>> {
    let mut names = Vec::new();
    for item in std::fs::read_dir(cache)? {
        let item = item?;
        let name = item.file_name().to_string_lossy().into_owned();
        if name.starts_with("linux-image-") && item.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.pop())
}

fn download(cache: &Path, package: &str, folder: &Path) -> anyhow::Result<()> {
    let part = cache.join(format!(".part-{package}"));
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(&part)?;
    run(Command::new("apt-get").args(["download", package]).current_dir(&part))?;
    let deb = std::fs::read_dir(&part)?
        .filter_map(Result::ok)
        .map(|item| item.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get download left no package")?;
    let root = part.join("root");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
    std::fs::rename(&root, folder).context("Keeping the unpacked kernel")?;
    std::fs::remove_dir_all(&part)?;
    Ok(())
}

impl Kernel {
    fn open(package: String, folder: &Path) -> anyhow::Result<Self> {
        let release = package.trim_start_matches("linux-image-");
        let vmlinuz = folder.join(format!("boot/vmlinuz-{release}"));
        let lib = ["lib", "usr/lib"].iter().map(|l| folder.join(l).join("modules").join(release));
        let lib = lib.into_iter().find(|path| path.is_dir());
        let lib = lib.with_context(|| format!("{package} holds no modules"))?;
        let mut modules = BTreeMap::new();
        collect(&lib.join("kernel"), &mut modules)?;
        let builtin = std::fs::read_to_string(lib.join("modules.builtin"))?.replace('-', "_");
        if !vmlinuz.is_file() {
            bail!("{package} holds no kernel");
        }
        Ok(Self { package, vmlinuz, modules, builtin })
    }

    /// The modules these need, in the order they must be loaded: name and content.
    pub fn modules(&self, names: &[&str]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for name in names {
            self.add(name, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) -> anyhow::Result<()> {
        let file = format!("{name}.ko");
        if order.iter().any(|(have, _)| *have == file) || self.builtin.contains(&format!("/{file}"))
        {
            return Ok(());
        }
        let path = self.modules.get(name).with_context(|| format!("no module {name}"))?;
        let content = if path.extension().is_some_and(|end| end == "xz") {
            run(Command::new("xz").args(["--decompress", "--keep", "--force"]).arg(path))?;
            std::fs::read(path.with_extension(""))?
        } else {
            std::fs::read(path)?
        };
        for needed in depends(&content) {
            self.add(&needed, order)?;
        }
        order.push((file, content));
        Ok(())
    }
}

/// Finds every module below a folder; names are written with `_`.
fn collect(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) -> anyhow::Result<()> {
    for item in std::fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, modules)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
        if let Some((name, "" | ".xz")) = name.split_once(".ko") {
            modules.entry(name.to_owned()).or_insert(path);
        }
    }
    Ok(())
}

/// The `depends=` line of a module's information.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
