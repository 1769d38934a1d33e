// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image`: builds the OS image from `image/` and the release binaries.

mod inputs;
mod mkosi;
mod raw;

use crate::{build, deps, paths, ui};
use anyhow::Context;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What goes to /usr/lib/forecourt.
const PROGRAMS: [&str; 4] =
    ["forecourt-agent", "forecourt-watchdog", "drbd-helper", "forecourt-console"];

/// What to build from and where to put it.
#[derive(Debug)]
pub struct Options {
    /// The folder with the four programs of the server.
    pub binaries: PathBuf,
    /// The folder the image is left in.
    pub out: PathBuf,
    /// Build even when nothing changed.
    pub force: bool,
}

/// The files a build leaves.
#[derive(Debug)]
pub struct ImagePaths {
    /// The disk: ESP, root-A, verity-A; sparse.
    pub raw: PathBuf,
    /// The unified kernel image, as it is in the ESP.
    pub uki: PathBuf,
    /// Version and sizes.
    pub json: PathBuf,
}

impl ImagePaths {
    fn new(out: &Path) -> Self {
        Self {
            raw: out.join("forecourt.raw"),
            uki: out.join("forecourt.efi"),
            json: out.join("forecourt.json"),
        }
    }

    fn complete(&self) -> bool {
        [&self.raw, &self.uki, &self.json].iter().all(|file| file.is_file())
    }
}

/// Builds `target/image/forecourt.raw` from the release binaries or the given programs; does
/// nothing when its inputs did not change.
pub fn run(force: bool, programs: Option<PathBuf>) -> anyhow::Result<()> {
    deps::ensure(deps::IMAGE)?;
    let binaries = if let Some(folder) = programs {
        folder
    } else {
        deps::ensure(deps::BUILD)?;
        build::release()?;
        paths::target().join("release")
    };
    let built = build(&Options { binaries, out: paths::target().join("image"), force })?;
    ui::line(std::fs::read_to_string(&built.json)?.trim());
    Ok(())
}

/// Builds the OS image.
pub fn build(options: &Options) -> anyhow::Result<ImagePaths> {
    let files = ImagePaths::new(&options.out);
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("Creating {}", options.out.display()))?;
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| options.binaries.join(name)).collect();
    let stamp = options.out.join("forecourt.inputs");
    let inputs = inputs::fingerprint(&definition(), &programs)?;
    let same = std::fs::read_to_string(&stamp).is_ok_and(|built| built == inputs);
    if same && files.complete() && !options.force {
        ui::line("image: nothing changed");
        return Ok(files);
    }
    let staged = stage(&options.out, &programs)?;
    let made = mkosi::Build {
        definition: definition(),
        name: "forecourt",
        version: Some(version()?),
        extra_tree: Some((staged, "/usr/lib/forecourt")),
    }
    .run("build the OS image")?;
    mkosi::take(&made.raw, &files.raw)?;
    mkosi::take(&made.uki, &files.uki)?;
    describe(&files)?;
    std::fs::write(&stamp, inputs)?;
    Ok(files)
}

/// Builds the yardstick: plain Debian with its cloud kernel and default initrd, to boot on the
/// same emulator.
pub fn build_stock(out: &Path) -> anyhow::Result<PathBuf> {
    build_other(out, "stock", definition().join("stock"))
}

/// Builds the rival: Debian with its Pacemaker, Corosync and DRBD.
pub fn build_peers(out: &Path) -> anyhow::Result<PathBuf> {
    build_other(out, "peers", paths::root().join("tests/lab/peers"))
}

/// Builds an image that has nothing of ours in it; does nothing when its definition did not change.
fn build_other(out: &Path, name: &'static str, definition: PathBuf) -> anyhow::Result<PathBuf> {
    let raw = out.join(name).with_extension("raw");
    let stamp = raw.with_extension("inputs");
    let inputs = inputs::fingerprint(&definition, &[])?;
    if raw.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|built| built == inputs) {
        return Ok(raw);
    }
    let build = mkosi::Build { definition, name, version: None, extra_tree: None };
    let made = build.run(&format!("build the {name} image"))?;
    mkosi::take(&made.raw, &raw)?;
    std::fs::write(&stamp, inputs)?;
    Ok(raw)
}

fn definition() -> PathBuf {
    paths::root().join("image")
}

/// The version of the image: the one line of `image/VERSION`.
fn version() -> anyhow::Result<String> {
    let file = definition().join("VERSION");
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("Reading the version in {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// Puts the programs, and nothing else, into a folder of their own.
fn stage(out: &Path, programs: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let folder = out.join("programs");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    for program in programs {
        let name = program.file_name().context("A program without a name")?;
        std::fs::copy(program, folder.join(name))
            .with_context(|| format!("Copying {} into the image", program.display()))?;
    }
    Ok(folder)
}

/// Writes what was built, and how big it is.
fn describe(files: &ImagePaths) -> anyhow::Result<()> {
    let parts = raw::inspect(&files.raw)?;
    let description = json!({
        "version": version()?,
        "roothash": parts.roothash,
        "uki_bytes": std::fs::metadata(&files.uki)?.len(),
        "root_bytes": parts.root_bytes,
        "verity_bytes": parts.verity_bytes,
    });
    let text = serde_json::to_string_pretty(&description)? + "\n";
    std::fs::write(&files.json, text).with_context(|| format!("Writing {}", files.json.display()))
}
