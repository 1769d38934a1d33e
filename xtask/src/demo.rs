// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: the main job on this machine.

use crate::args::DemoOptions;
use crate::report::Report;
use crate::{lab, ui};
use tests_lab::timeline::Timeline;

/// Runs the demo.
pub fn run(options: &DemoOptions) -> anyhow::Result<()> {
    let json = Report::open(options.json.as_deref())?;
    let artifacts = lab::artifacts()?;
    let timeline = Timeline::printing();
    let (report, site) = tests_lab::demo::run(&artifacts, &timeline)?;
    ui::line(&format!("\nWhat it took:\n{}", report.table()));
    if let Some(json) = json {
        json.write(&report)?;
    }
    if !options.once {
        ui::line(&format!("dashboard  {}/", site.hq.url()));
        ui::line(&format!("the VM     http://127.0.0.1:{}/", site.page.port));
        ui::line("The site stays up; Ctrl-C ends it.");
        tests_lab::process::wait_for_interrupt()?;
    }
    Ok(())
}
