// SPDX-License-Identifier: Apache-2.0
//! `forecourt template`: build, sign, publish, look.
//!
//! A build folder holds `chunks/`, `manifest.json` and, once signed, `targets.json`.

use super::keys::ROOT_FILE;
use crate::api::{Hq, read_file, write_file};
use crate::args::{Connection, Template};
use crate::error::{Failure, Kind, Outcome};
use crate::output;
use crate::progress::Progress;
use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use provisioning_catalogue::build;
use provisioning_catalogue::chunks::{ChunkHash, ChunkStore};
use provisioning_catalogue::keys::OfflineKeys;
use provisioning_catalogue::manifest::Manifest;
use provisioning_catalogue::signing;
use provisioning_catalogue::template_file::Template as TemplateFile;
use provisioning_protocol::operator::TemplateView;
use reqwest::Method;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const MANIFEST_FILE: &str = "manifest.json";
const TARGETS_FILE: &str = "targets.json";
/// Uploads under way at once.
const UPLOADS: usize = 8;

pub async fn run(to: &Connection, what: Template) -> Outcome<()> {
    match what {
        Template::Build { folder, out } => cut(&folder, &out),
        Template::Sign { build, keys, current, first } => {
            sign(to, &build, &keys, current, first).await
        }
        Template::Publish { build } => publish(&Hq::new(to)?, &build).await,
        Template::List { json } => list(&Hq::new(to)?, json).await,
        Template::Show { name, json } => show(&Hq::new(to)?, &name, json).await,
    }
}

fn cut(folder: &Path, out: &Path) -> Outcome<()> {
    let template = TemplateFile::read(folder).map_err(|e| Failure::input(e.to_string()))?;
    let store = open_store(out)?;
    let mut progress: Option<Progress> = None;
    let manifest = build::build(&template, &store, &mut |seen| {
        let name = format!("build {}", template.template);
        progress.get_or_insert_with(|| Progress::bytes(&name, seen.total)).at(seen.done);
    })
    .map_err(|e| Failure::caused(Kind::Input, "the template was not built", &e))?;
    if let Some(progress) = progress {
        progress.done();
    }
    write_file(&out.join(MANIFEST_FILE), &manifest.to_json())?;
    println!(
        "built {}: image {}, {} chunks, {} packed",
        manifest.template,
        output::bytes(manifest.image_bytes()),
        manifest.chunks().len(),
        output::bytes(manifest.stored_bytes()),
    );
    Ok(())
}

async fn sign(
    to: &Connection,
    build: &Path,
    keys: &Path,
    current: Option<PathBuf>,
    first: bool,
) -> Outcome<()> {
    let manifest = manifest(build)?;
    let offline = OfflineKeys::open(keys)
        .map_err(|e| Failure::caused(Kind::Input, "the keys cannot be used", &e))?;
    let root = read_file(&keys.join(ROOT_FILE))?;
    let current = match current {
        Some(file) => Some(read_file(&file)?),
        None if first => None,
        None => Hq::new(to)?.get_bytes("/v1/catalogue/targets").await?,
    };
    let name = manifest.template.to_string();
    let signed =
        signing::sign_targets(&offline, &root, current.as_deref(), &[manifest], Timestamp::now())
            .await
            .map_err(|e| Failure::caused(Kind::Input, "nothing was signed", &e))?;
    write_file(&build.join(TARGETS_FILE), &signed)?;
    println!("signed {name}");
    Ok(())
}

#[derive(Deserialize)]
struct Missing {
    missing: Vec<ChunkHash>,
}

async fn publish(hq: &Hq, build: &Path) -> Outcome<()> {
    let manifest = manifest(build)?;
    let targets = read_file(&build.join(TARGETS_FILE))
        .map_err(|e| e.hint("sign it first: forecourt template sign"))?;
    let Missing { missing } = hq.put_bytes("/v1/catalogue/manifests", manifest.to_json()).await?;
    let sent = upload(hq, &open_store(build)?, &manifest, missing).await?;
    let _: Vec<TemplateView> = hq.put_bytes("/v1/catalogue/targets", targets).await?;
    println!("published {}, {} sent", manifest.template, output::bytes(sent));
    Ok(())
}

async fn upload(
    hq: &Hq,
    store: &ChunkStore,
    manifest: &Manifest,
    missing: Vec<ChunkHash>,
) -> Outcome<u64> {
    let sizes = manifest.chunks();
    let size = |hash: &ChunkHash| u64::from(sizes.get(hash).copied().unwrap_or(0));
    let total = missing.iter().map(size).sum();
    let mut progress = Progress::bytes(&format!("upload {}", manifest.template), total);
    let sends = missing.into_iter().map(|hash| async move {
        let packed = store
            .read_packed(&hash)
            .map_err(|e| Failure::caused(Kind::Input, "the build folder is incomplete", &e))?;
        hq.send_bytes(Method::PUT, &format!("/chunks/{}", hash.path()), packed).await?;
        Ok::<_, Failure>(hash)
    });
    let mut sends = futures_util::stream::iter(sends).buffer_unordered(UPLOADS);
    let mut done = 0;
    while let Some(hash) = sends.try_next().await? {
        done += size(&hash);
        progress.at(done);
    }
    progress.done();
    Ok(done)
}

async fn list(hq: &Hq, json: bool) -> Outcome<()> {
    let views: Vec<TemplateView> = hq.get("/v1/templates").await?;
    if json {
        return output::json(&views);
    }
    let row = |view: &TemplateView| {
        vec![
            view.template.name.to_string(),
            view.template.version.to_string(),
            output::bytes(view.image_bytes),
            output::bytes(view.stored_bytes),
            format!("{} CPU, {} MiB", view.vm.cpus, view.vm.memory_mib),
        ]
    };
    let heading = ["name", "version", "image", "stored", "needs"];
    output::table(&heading, views.iter().map(row).collect(), "no template is published");
    Ok(())
}

async fn show(hq: &Hq, name: &str, json: bool) -> Outcome<()> {
    let views: Vec<TemplateView> = hq.get("/v1/templates").await?;
    let fits = |view: &&TemplateView| {
        view.template.name.as_str() == name || view.template.to_string() == name
    };
    let view = views
        .iter()
        .filter(fits)
        .max_by_key(|view| view.template.version)
        .ok_or_else(|| Failure::input(format!("no template \"{name}\" is published")))?;
    if json {
        return output::json(view);
    }
    println!("{}", view.template);
    println!("needs: {} CPU, {} MiB memory", view.vm.cpus, view.vm.memory_mib);
    for disk in &view.vm.disks {
        println!(
            "disk {}: {}, {}",
            disk.name,
            output::word(&disk.role),
            output::bytes(disk.size_bytes)
        );
    }
    for (key, value) in &view.vm.variables {
        println!("variable {key}: default \"{value}\"");
    }
    Ok(())
}

fn manifest(build: &Path) -> Outcome<Manifest> {
    let file = build.join(MANIFEST_FILE);
    let bytes = read_file(&file).map_err(|e| e.hint("build it first: forecourt template build"))?;
    Manifest::from_json(&bytes).map_err(|e| {
        Failure::caused(Kind::Input, &format!("{} cannot be used", file.display()), &e)
    })
}

fn open_store(build: &Path) -> Outcome<ChunkStore> {
    ChunkStore::open(&build.join("chunks"))
        .map_err(|e| Failure::caused(Kind::Input, "the build folder cannot be used", &e))
}
