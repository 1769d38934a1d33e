// SPDX-License-Identifier: Apache-2.0
//! The dashboard in a real browser. Needs Chromium, so it runs only when `FORECOURT_WEB=1`, and
//! then fails loudly without it. `FORECOURT_SHOTS=DIR` keeps screenshots.

#[path = "support/browser.rs"]
mod browser;
mod support;

use browser::Browser;
use provisioning_protocol::ids::{Epoch, NodeSlot, VmName};
use provisioning_protocol::peer::{Path, PeerState};
use provisioning_protocol::report::{Event, ServerStatus, VmPhase, VmStatus};
use provisioning_protocol::template::TemplateRef;
use reqwest::Method;
use serde_json::json;
use std::time::{Duration, Instant};
use support::{Codes, Hq, Server, status};

const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>\
     '\"--></td>{{7*7}}";

fn wanted() -> bool {
    let wanted = std::env::var("FORECOURT_WEB").is_ok_and(|value| value == "1");
    if !wanted {
        eprintln!("skipped: set FORECOURT_WEB=1 to run it in Chromium");
    }
    wanted
}

/// Runs blocking browser work beside the server.
async fn browse<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the browser's part passes")
}

fn log_in(browser: &mut Browser, url: &str, token: &str) {
    browser.open(url);
    browser.wait("location.pathname === '/login' && !!document.querySelector('#token')");
    let token = serde_json::to_string(token).expect("JSON");
    browser.value(&format!(
        "document.querySelector('#token').value = {token}; document.forms[0].requestSubmit(); 0"
    ));
}

fn vm(name: &str, phase: VmPhase) -> VmStatus {
    VmStatus {
        name: VmName::new(name).expect("name"),
        template: serde_json::from_value::<TemplateRef>(json!({"name": "shop", "version": 1}))
            .expect("template"),
        phase,
        detail: String::new(),
    }
}

fn event(code: &str, text: &str) -> Event {
    Event { at_ms: 1, code: code.into(), text: text.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_told_and_the_right_one_shows_the_site() {
    if !wanted() {
        return;
    }
    let (hq, _) = Hq::with_site().await;
    let (url, token) = (hq.url("/"), hq.token());
    browse(move || {
        let mut browser = Browser::start();
        log_in(&mut browser, &url, "not the token");
        browser.wait("document.body.innerText.includes('not this HQ')");
        log_in(&mut browser, &url, &token);
        browser.wait("location.pathname === '/' && !!document.querySelector('[data-site=kassel]')");
        browser.wait("document.querySelector('#live').dataset.state === 'live'");
        let card = browser.value("document.querySelector('[data-site=kassel]').innerText");
        assert!(card.as_str().expect("text").contains("Waiting for servers"), "{card}");
        assert_eq!(browser.value("document.cookie"), "", "scripts must not see the session");
        browser.value("document.querySelector('.top form').requestSubmit(); 0");
        browser.wait("location.pathname === '/login'");
        browser.open(&url);
        browser.wait("location.pathname === '/login'");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_appears_on_the_open_page_without_a_reload() {
    if !wanted() {
        return;
    }
    let (hq, codes) = Hq::with_site().await;
    let [mut a, _] = hq.enrol_pair(&codes).await;
    let (url, token) = (hq.url("/"), hq.token());
    let mut browser = browse(move || {
        let mut browser = Browser::start();
        log_in(&mut browser, &url, &token);
        browser.wait("document.querySelector('#live')?.dataset.state === 'live'");
        browser.value("window.mark = 1");
        assert_eq!(browser.value("document.body.innerText.includes('vm_started')"), false);
        browser
    })
    .await;
    let mut now = status();
    now.vms = vec![vm("shop", VmPhase::Healthy)];
    let report = a.report(now, vec![event("vm_started", "shop runs on A")]);
    assert_eq!(a.send(&hq, &report).await.status(), 200);
    let sent = Instant::now();
    let took = browse(move || {
        browser.wait("document.body.innerText.includes('shop runs on A')");
        let took = sent.elapsed();
        browser.wait("document.querySelector('.vms').innerText.includes('healthy')");
        assert_eq!(browser.value("window.mark"), 1, "the page was loaded anew");
        took
    })
    .await;
    println!("a report was on the page after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_is_shown_and_never_run() {
    if !wanted() {
        return;
    }
    let (hq, codes) = Hq::with_site().await;
    let mut a = Server::new("<script>window.hacked=1</script>");
    a.enrol(&hq, &codes.codes[&NodeSlot::A]).await;
    let mut bad = status();
    bad.image = HOSTILE.into();
    bad.pair.cause = HOSTILE.into();
    bad.problems = vec![HOSTILE.into()];
    let report = a.report(bad, vec![event("<b>code</b>", HOSTILE)]);
    assert_eq!(a.send(&hq, &report).await.status(), 200);
    let (url, token) = (hq.url("/"), hq.token());
    browse(move || {
        let mut browser = Browser::start();
        log_in(&mut browser, &url, &token);
        browser.wait("document.querySelector('#live')?.dataset.state === 'live'");
        let shown = format!(
            "document.querySelector('.events').innerText.includes({})",
            serde_json::to_string(HOSTILE).expect("JSON")
        );
        browser.wait(&shown);
        // Also after the board was drawn anew by script.
        browser.value("document.querySelector('.events').remove(); 0");
        browser.wait(&format!("!!document.querySelector('.events') && {shown}"));
        assert_eq!(browser.value("typeof window.hacked"), "undefined");
        assert_eq!(browser.value("document.querySelectorAll('img[src=x], main script').length"), 0);
        // Were a text ever not escaped, the policy would still stop it.
        browser.value(
            "const s = document.createElement('script'); s.textContent = 'window.inline = 1'; \
             document.body.append(s); 0",
        );
        assert_eq!(browser.value("typeof window.inline"), "undefined");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_of_a_site_has_its_word_and_the_page_fits_its_window() {
    if !wanted() {
        return;
    }
    let (hq, codes) = Hq::with_site().await;
    fill(&hq, &codes).await;
    let (url, token) = (hq.url("/"), hq.token());
    browse(move || {
        let mut browser = Browser::start();
        log_in(&mut browser, &url, &token);
        browser.wait("document.querySelector('#live')?.dataset.state === 'live'");
        for (site, word) in [
            ("kassel", "Healthy"),
            ("fulda", "On one server"),
            ("marburg", "Catching up"),
            ("giessen", "Waiting for servers"),
        ] {
            let pill = browser
                .value(&format!("document.querySelector('[data-site={site}] .pill').innerText"));
            assert_eq!(pill, word, "{site}");
        }
        for (name, width, height, scheme) in [
            ("light", 1440, 1000, "light"),
            ("dark", 1440, 1000, "dark"),
            ("narrow", 400, 1600, "light"),
        ] {
            browser.look(width, height, scheme);
            let wide = browser.value("document.documentElement.scrollWidth - innerWidth");
            assert_eq!(wide, 0, "{name}: the page is wider than its window");
            keep(&format!("page-{name}.png"), &browser.shot());
        }
        browser.look(1440, 1000, "light");
        browser.value("document.querySelector('.top form').requestSubmit(); 0");
        browser.wait("location.pathname === '/login'");
        keep("login.png", &browser.shot());
    })
    .await;
}

fn keep(name: &str, png: &[u8]) {
    if let Some(folder) = std::env::var_os("FORECOURT_SHOTS") {
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(std::path::Path::new(&folder).join(name), png).expect("written");
    }
}

/// Sites in many states.
async fn fill(hq: &Hq, codes: &Codes) {
    let template = json!({"name": "shop", "version": 1});
    let two = json!({"name": "branch", "vms": [
        {"name": "parts-counter", "template": template},
        {"name": "workshop-planner", "template": template}]});
    let answer = hq.operator(Method::PUT, "/v1/blueprints/branch", &two).await;
    assert_eq!(answer.status(), 200);
    let running = |mut status: ServerStatus, a: VmPhase, b: VmPhase| {
        status.vms = vec![vm("parts-counter", a), vm("workshop-planner", b)];
        status
    };
    let standby = VmPhase::Standby;
    site(
        hq,
        codes,
        "5F2C-0001",
        [
            Some(running(status(), VmPhase::Healthy, standby)),
            Some(running(status(), standby, VmPhase::Healthy)),
        ],
    )
    .await;
    let mut solo = running(status(), VmPhase::Healthy, VmPhase::Healthy);
    solo.pair.state = PeerState::Solo;
    solo.pair.epoch = Epoch(4);
    solo.pair.replication = None;
    solo.pair.paths.clear();
    solo.pair.cause = "server B is gone since 14:03; HQ's witness let server A go on alone".into();
    let fulda = hq.create_site("fulda").await;
    site(hq, &fulda, "5F2C-0002", [Some(solo), None]).await;
    let mut late = running(status(), standby, standby);
    late.pair.state = PeerState::Resync;
    late.pair.resync_percent = Some(42);
    late.pair.replication = Some(Path::Lan);
    late.pair.cause = "server B is back and copies what it missed".into();
    let mut busy = running(status(), VmPhase::Healthy, VmPhase::Healthy);
    busy.pair = late.pair.clone();
    let marburg = hq.create_site("marburg").await;
    site(hq, &marburg, "5F2C-0003", [Some(busy), Some(late)]).await;
    hq.create_site("giessen").await;
}

async fn site(hq: &Hq, codes: &Codes, serial: &str, states: [Option<ServerStatus>; 2]) {
    for (slot, state) in NodeSlot::BOTH.into_iter().zip(states) {
        let mut server = Server::new(&format!("{serial}{}", slot.letter()));
        server.enrol(hq, &codes.codes[&slot]).await;
        let Some(state) = state else { continue };
        let events = match state.pair.state {
            PeerState::Solo => vec![
                event("peer_lost", "server B is not heard on any path; volumes are frozen"),
                event("takeover", "parts-counter was started here"),
            ],
            PeerState::Resync => vec![event("resync", "copies 1.2 GiB that it missed")],
            _ => vec![event("vm_started", "parts-counter is healthy")],
        };
        let report = server.report(state, events);
        assert_eq!(server.send(hq, &report).await.status(), 200);
    }
}
