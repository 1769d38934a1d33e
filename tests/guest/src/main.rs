// SPDX-License-Identifier: Apache-2.0
//! Builds the example template `parts-counter`: a folder with `template.yaml` and `system.raw`.
//!
//! ```text
//!  Debian's cloud kernel ┐                          ┌ MBR (syslinux)
//!  busybox, mke2fs       ├ initramfs ─► FAT ─► image│ FAT: vmlinuz, initrd, syslinux.cfg
//!  parts-counter (static)┘                          └
//! ```
//!
//! Needs Debian's packages syslinux, mtools, busybox-static and e2fsprogs; the kernel's package is
//! downloaded, not installed.

mod cpio;
mod image;
mod initramfs;
mod kernel;
mod run;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Parser)]
#[command(about = "Builds the example template parts-counter")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the template's folder; does nothing when it is there already and nothing changed.
    Build {
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
        /// Release counter in template.yaml.
        #[arg(long, default_value_t = 1)]
        release: u64,
        /// Build even if nothing changed.
        #[arg(long)]
        force: bool,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Build { out, release, force } = Args::parse().command;
    build(&out, release, force)
}

fn build(out: &Path, release: u64, force: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("Making {}", out.display()))?;
    let kernel = kernel::find(&cache_folder()?)?;
    let stamp = format!("{}\n{release}\n{}\n", kernel.package, initramfs::sources_digest());
    let stamp_file = out.join(".stamp");
    let image = out.join("system.raw");
    let fresh = std::fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp);
    if fresh && image.is_file() && !force {
        println!("{} is up to date", out.display());
        return Ok(());
    }
    let _ = std::fs::remove_file(&stamp_file);
    let work = out.join(".work");
    std::fs::create_dir_all(&work).context("Making the work folder")?;
    let initrd = initramfs::build(&work, &kernel, release)?;
    image::build(&image, &work, &kernel.vmlinuz, &initrd)?;
    std::fs::write(out.join("template.yaml"), template_yaml(release))
        .context("Writing template.yaml")?;
    std::fs::remove_dir_all(&work).context("Removing the work folder")?;
    std::fs::write(&stamp_file, stamp).context("Writing the stamp")?;
    let size = std::fs::metadata(&image)?.len();
    println!("{}: kernel {}, image {} MiB", out.display(), kernel.package, size >> 20);
    Ok(())
}

/// Downloads are kept in `~/.cache/forecourt/guest`.
fn cache_folder() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("forecourt/guest"))
}

fn template_yaml(release: u64) -> String {
    format!(
        "# SPDX-License-Identifier: Apache-2.0\n\
         # The example template: a counter of parts, kept on a data disk.\n\
         format: 1\n\
         name: parts-counter\n\
         release: {release}\n\
         firmware: bios\n\
         cpus: 1\n\
         memory: 160 MiB\n\
         disks:\n\
         \x20 - {{name: system, role: system, image: system.raw}}\n\
         \x20 - {{name: data, role: data, size: 64 MiB}}\n\
         nics: 1\n\
         probe: {{http: {{port: 80, path: /health}}}}\n\
         variables:\n\
         \x20 ADDRESS: \"\"   # such as 10.0.2.100/24; DHCP when empty\n\
         \x20 GATEWAY: \"\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_reads_the_template_file() {
        let folder = std::env::temp_dir().join(format!("guest-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("template.yaml"), template_yaml(7)).expect("written");
        std::fs::write(folder.join("system.raw"), vec![1; 1 << 20]).expect("written");
        let template = provisioning_catalogue::template_file::Template::read(&folder);
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(template.expect("read").template.to_string(), "parts-counter@7");
    }
}
