// SPDX-License-Identifier: Apache-2.0
//! Records that are lost or come back old: a server's own, and the witness's.

use super::round::{MINUTE, Round};
use crate::scenario::Scenario;
use crate::server::BOOT_LIMIT;
use crate::site::Site;
use anyhow::{Context, ensure};
use std::process::Command;

pub const RECORDS: &[Scenario] = &[
    Scenario {
        name: "state-lost",
        about: "a server loses what it knew of the pair: it has no vote until the other takes it back",
        run: state_lost,
    },
    Scenario {
        name: "witness-restored",
        about: "HQ comes back from an older backup: its witness is not believed until the pair is one",
        run: witness_restored,
    },
];

fn state_lost(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let wipe = "rm -f /var/lib/forecourt/state/*; sync; ls /var/lib/forecourt/state | wc -l";
    let left = round.exec(round.other, wipe)?;
    ensure!(left.trim() == "0", "{left} files are left");
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power and what it knew");
    round.stayed()?;
    round.power_on(round.other)?;
    round.end()
}

fn witness_restored(site: &mut Site) -> anyhow::Result<()> {
    let mut round = Round::begin(site)?;
    let (folder, backup) =
        (round.site.hq.dir().to_owned(), round.site.run.path().join("hq-backup"));
    round.site.hq.kill();
    copy(&folder, &backup)?;
    round.site.hq.start()?;
    round.site.timeline.note("hq", "backed up");
    round.site.server(round.other).kill();
    round.fault("the server without the VM loses power");
    round.stayed()?;
    round.site.hq.kill();
    std::fs::remove_dir_all(&folder).context("Removing HQ's folder")?;
    copy(&backup, &folder)?;
    round.site.hq.start()?;
    round.site.timeline.note("hq", "restored from the backup");
    round.site.server(round.host).wait_status("the witness distrusted", 3 * MINUTE, |status| {
        let told = |text: &String| text.contains("reset or restored");
        status.server.problems.iter().any(told).then_some(())
    })?;
    round.power_on(round.other)?;
    for server in [&round.site.a, &round.site.b] {
        server.wait_status("the witness believed again", BOOT_LIMIT, |status| {
            let told = |text: &String| text.contains("reset or restored");
            (!status.server.problems.iter().any(told)).then_some(())
        })?;
    }
    round.end()
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("Starting cp")?;
    ensure!(status.success(), "cp -a {} {}: {status}", from.display(), to.display());
    Ok(())
}
