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
/// Between two keys of a sentence.
const KEY_PAUSE: Duration = Duration::from_millis(220);

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

/// What a person does at the screen of a server whose peer is dead: says so, in the words asked for.
pub fn declare_peer_off(server: &mut Server) -> anyhow::Result<()> {
    order(server, "d", "Other is off", "other server is off", "declare.png")?;
    wait_screen(server, &["This server goes on alone"])?;
    server.send_keys(&["esc"])
}

/// What a person does at the screen of a server whose work is not to count.
pub fn give_up_data(server: &mut Server) -> anyhow::Result<()> {
    order(server, "g", "Give up data", "give up data of this server", "give-up.png")?;
    wait_screen(server, &["copied from the other one now"])?;
    server.send_keys(&["esc"])
}

/// Presses a key, gives a reason, and types the words asked for; takes a picture before the words.
fn order(
    server: &mut Server,
    key: &str,
    offer: &str,
    words: &str,
    picture: &str,
) -> anyhow::Result<()> {
    wait_screen(server, &["What to do", &format!("{key} {offer}")])?;
    server.send_keys(&[key])?;
    wait_screen(server, &["Why?"])?;
    let typed = |server: &mut Server, text: &str, upper: bool| -> anyhow::Result<()> {
        for c in text.chars() {
            let key = if c == ' ' { "spc".to_owned() } else { c.to_string() };
            let mut keys = vec![key.as_str()];
            if upper && c != ' ' {
                keys.insert(0, "shift");
            }
            let keys = keys.iter().map(|key| json!({ "type": "qcode", "data": key }));
            server.qmp("send-key", json!({ "keys": keys.collect::<Vec<_>>() }))?;
            // QEMU holds each key for 100 ms.
            std::thread::sleep(KEY_PAUSE);
        }
        server.send_keys(&["ret"])
    };
    typed(server, "no power", false)?;
    wait_screen(server, &[&format!("Type {}", words.to_uppercase()), "no power"])?;
    let picture = server.dir().join(picture);
    server.screendump(&picture)?;
    typed(server, words, true)
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
