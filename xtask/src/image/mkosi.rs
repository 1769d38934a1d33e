// SPDX-License-Identifier: Apache-2.0
//! Runs mkosi, the image builder, as Debian trixie packages it. It is plain Python, so its
//! unpacked package runs on an older Debian too; all other tools come from the tools tree it
//! makes for itself. Nothing on the machine changes but the user's cache folder.

use crate::{paths, sh};
use anyhow::Context;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package wanted, and the archive it is taken from.
const PACKAGE: &str = "mkosi=25.3-*";
const SOURCES: &str = "\
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// The image whose tools tree all others are built with, and the folder both are kept in.
const MAIN: &str = "forecourt";
const KEPT: &str = "cache";

/// One image to build.
pub struct Build {
    /// The folder with `mkosi.conf`.
    pub definition: PathBuf,
    /// What the files that come out are called.
    pub name: &'static str,
    /// The image's version.
    pub version: Option<String>,
    /// A folder to copy into the image, and where to.
    pub extra_tree: Option<(PathBuf, &'static str)>,
}

/// What came out.
pub struct Made {
    /// The disk.
    pub raw: PathBuf,
    /// The unified kernel image.
    pub uki: PathBuf,
}

impl Build {
    /// Builds it; packages and tools are kept in the cache for the next time.
    pub fn run(&self, title: &str) -> anyhow::Result<Made> {
        let cache = paths::cache();
        std::fs::create_dir_all(&cache).with_context(|| format!("Creating {}", cache.display()))?;
        let lock = File::create(cache.join("image.lock"))?;
        lock.lock().context("Waiting for another image build to end")?;
        let python = ensure_mkosi(&cache)?;
        // A build that was killed leaves its work tree behind.
        let work = cache.join("workspace");
        if work.exists() {
            std::fs::remove_dir_all(&work)
                .with_context(|| format!("Clearing {}", work.display()))?;
        }
        let out = cache.join("out");
        let kept = self.kept(&cache);
        for folder in [&work, &out, &kept, &cache.join("packages")] {
            std::fs::create_dir_all(folder)?;
        }
        share_tools(&cache.join(KEPT), &kept)?;
        sh::step(title, &mut self.command(&cache, &python))?;
        Ok(Made {
            raw: out.join(self.name).with_extension("raw"),
            uki: out.join(self.name).with_extension("efi"),
        })
    }

    /// Where its installed packages are kept for the next build. mkosi names them by distribution
    /// alone, so images that shared a folder would push each other out.
    fn kept(&self, cache: &Path) -> PathBuf {
        if self.name == MAIN {
            cache.join(KEPT)
        } else {
            cache.join(format!("{KEPT}-{}", self.name))
        }
    }

    fn command(&self, cache: &Path, python: &Path) -> Command {
        let folder = |name: &str| cache.join(name).into_os_string();
        let mut command = sh::command_in(&self.definition, "/usr/bin/python3");
        command.env("PYTHONPATH", python).args(["-m", "mkosi", "--force"]);
        command.arg("--cache-directory").arg(self.kept(cache));
        command.arg("--package-cache-dir").arg(folder("packages"));
        command.arg("--workspace-directory").arg(folder("workspace"));
        command.arg("--output-directory").arg(folder("out"));
        command.args(["--output", self.name]);
        if let Some(version) = &self.version {
            command.args(["--image-version", version]);
        }
        if let Some((tree, target)) = &self.extra_tree {
            command.arg(format!("--extra-tree={}:{target}", tree.display()));
        }
        command.arg("build");
        command
    }
}

/// Lets another image's folder use the tools that are kept for the main one.
fn share_tools(main: &Path, other: &Path) -> anyhow::Result<()> {
    if main == other {
        return Ok(());
    }
    for name in ["tools.cache", "tools.manifest"] {
        let (there, here) = (main.join(name), other.join(name));
        if there.exists() && here.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(&there, &here)
                .with_context(|| format!("Linking {}", here.display()))?;
        }
    }
    Ok(())
}

/// Moves a file that was built to where it is wanted, keeping it sparse.
pub fn take(built: &Path, wanted: &Path) -> anyhow::Result<()> {
    if std::fs::rename(built, wanted).is_ok() {
        return Ok(());
    }
    // The cache is on another file system.
    let partial = wanted.with_extension("partial");
    sh::run(Command::new("cp").arg("--sparse=always").arg(built).arg(&partial))?;
    std::fs::rename(&partial, wanted)
        .with_context(|| format!("Moving the image to {}", wanted.display()))
}

/// Fetches and unpacks mkosi once; returns its Python path.
fn ensure_mkosi(cache: &Path) -> anyhow::Result<PathBuf> {
    let unpacked = cache.join("mkosi-25.3");
    let python = unpacked.join("usr/lib/python3/dist-packages");
    if python.join("mkosi").is_dir() {
        return Ok(python);
    }
    let apt = cache.join("apt");
    for folder in ["sources", "lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(apt.join(folder))?;
    }
    std::fs::write(apt.join("sources/trixie.sources"), SOURCES)?;
    std::fs::write(apt.join("status"), "")?;
    sh::step("fetch Debian's package list", apt_get(&apt).arg("update"))?;
    sh::step("fetch mkosi", apt_get(&apt).args(["download", PACKAGE]))?;
    let package = std::fs::read_dir(&apt)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension().is_some_and(|ending| ending == "deb"))
        .context("apt-get download left no package")?;
    // Unpacked beside and then renamed, so that a half-done folder is never used.
    let partial = cache.join("mkosi-25.3.partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    sh::run(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&partial))?;
    std::fs::rename(&partial, &unpacked)?;
    Ok(python)
}

/// An apt-get that sees only its own sources and leaves the machine's alone.
fn apt_get(folder: &Path) -> Command {
    let mut command = sh::command_in(folder, "apt-get");
    let path = |name: &str| folder.join(name).display().to_string();
    for (option, value) in [
        ("Dir::State", path("")),
        ("Dir::State::lists", path("lists")),
        ("Dir::State::status", path("status")),
        ("Dir::Cache", path("cache")),
        ("Dir::Etc::sourcelist", "/dev/null".to_owned()),
        ("Dir::Etc::sourceparts", path("sources")),
        ("APT::Sandbox::User", "root".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
    ] {
        command.arg("-o").arg(format!("{option}={value}"));
    }
    command.arg("--quiet");
    command
}
