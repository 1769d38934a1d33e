// SPDX-License-Identifier: Apache-2.0
//! A headless Chromium, driven over its DevTools pipe (file descriptors 3 and 4).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a page may take to become what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

const FLAGS: [&str; 14] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--ignore-certificate-errors",
    "--remote-debugging-pipe",
    "--lang=en-GB",
];

/// A browser with one page. Killed when dropped.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: String,
    next: u64,
    _home: TempDir,
}

impl Browser {
    /// Starts Chromium; fails loudly when it is missing.
    pub fn start() -> Self {
        let program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("no Chromium: apt-get install chromium");
        let home = TempDir::new().expect("temp dir");
        let (inbox, outbox) = (home.path().join("in"), home.path().join("out"));
        let made = Command::new("mkfifo").args([&inbox, &outbox]).status().expect("mkfifo runs");
        assert!(made.success());
        let child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<\"$0/in\" 4>\"$0/out\""])
            .arg(home.path())
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium starts");
        let to = File::options().write(true).open(&inbox).expect("pipe to Chromium");
        let from = listen(File::open(&outbox).expect("pipe from Chromium"));
        let mut browser = Self { child, to, from, session: String::new(), next: 0, _home: home };
        browser.attach();
        browser
    }

    fn attach(&mut self) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let id = target["targetId"].clone();
        let session = self.call("Target.attachToTarget", json!({"targetId": id, "flatten": true}));
        self.session = session["sessionId"].as_str().expect("a session").to_owned();
        self.call("Page.enable", json!({}));
    }

    /// Opens an address.
    pub fn open(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
    }

    /// The value of a JavaScript expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        self.call("Runtime.evaluate", params)["result"]["value"].clone()
    }

    /// Waits until an expression is true; says what the page shows when it never is.
    pub fn wait(&mut self, expression: &str) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.value(expression) == json!(true) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = self.value("document.body ? document.body.innerText : ''");
        panic!("never true: {expression}\nthe page shows: {text}");
    }

    /// Sets size and colours of the page.
    pub fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// The page as PNG.
    pub fn shot(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        BASE64_STANDARD.decode(shot["data"].as_str().expect("data")).expect("base64")
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = serde_json::to_vec(&message).expect("JSON");
        bytes.push(0);
        self.to.write_all(&bytes).expect("Chromium listens");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = match self.from.recv_timeout(left) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => panic!("Chromium does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => panic!("Chromium ended during {method}"),
            };
            if answer["id"] == json!(self.next) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium's helper processes too; the kill is for one that hangs.
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads messages, each ended by a zero byte, until the pipe closes.
fn listen(pipe: File) -> Receiver<Value> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while pipe.read_until(0, &mut bytes).is_ok_and(|length| length > 0) {
            bytes.pop();
            let message = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            if send.send(message).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receive
}
