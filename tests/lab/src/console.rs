// SPDX-License-Identifier: Apache-2.0
//! The recovery console on the server's own screen and serial line.

use crate::server::Server;
use crate::site::{SITE, Site};
use crate::wait::wait_for;
use anyhow::ensure;
use serde_json::json;
use std::time::Duration;

/// A page must be on the screen within this time; the console itself takes a second.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

/// Both screens show the healthy pair, keys open pages, and the keys that end other programs do
/// not end this one. Leaves a picture of each screen in the server's folder.
pub fn console(site: &mut Site) -> anyhow::Result<()> {
    for name in ["a", "b"] {
        let server = site.server(name);
        let place = format!("site {SITE}   server {}", name.to_uppercase());
        wait_screen(server, &["What to do", "HEALTHY", &place])?;
        let serial = std::fs::read(server.serial_log())?;
        let serial = String::from_utf8_lossy(&serial);
        ensure!(serial.contains("What to do"), "the serial line of {name} shows no console");
        let picture = server.dir().join("console.png");
        server.screendump(&picture)?;
        site.timeline.note(name, format!("its screen is in {}", picture.display()));
    }
    let process = "systemctl show -P MainPID forecourt-console@tty1.service";
    let before = site.a.exec(process)?.ok()?;
    for key in ["c", "z", "backslash"] {
        let keys = ["ctrl", key].map(|key| json!({ "type": "qcode", "data": key }));
        site.a.qmp("send-key", json!({ "keys": keys }))?;
    }
    site.a.send_keys(&["3"])?;
    wait_screen(&site.a, &["Network cards", "LAN", "cable"])?;
    site.a.send_keys(&["f2"])?;
    wait_screen(&site.a, &["newest first"])?;
    site.a.send_keys(&["esc"])?;
    wait_screen(&site.a, &["What to do"])?;
    let after = site.a.exec(process)?.ok()?;
    ensure!(before == after, "the console was ended by a key: {before} then {after}");
    Ok(())
}

/// Waits until all of these texts are on the server's screen.
fn wait_screen(server: &Server, texts: &[&str]) -> anyhow::Result<()> {
    let what = format!("{texts:?} on the screen of {}", server.name());
    wait_for(&what, PAGE_LIMIT, || {
        let screen = server.exec("cat /dev/vcs1")?.ok()?;
        let missing = texts.iter().find(|text| !screen.contains(**text));
        match missing {
            None => Ok(Some(())),
            Some(text) => anyhow::bail!("no {text:?} in {screen}"),
        }
    })
}
