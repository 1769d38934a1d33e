// SPDX-License-Identifier: Apache-2.0
//! The real `forecourt` binary against a real HQ on loopback: the demo's way, and wrong turns.

use provisioning_hq::clock::Clock;
use provisioning_hq::files::Folder;
use provisioning_hq::{init, serve};
use provisioning_protocol::owner::OwnerBundle;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

struct Desk {
    dir: TempDir,
    url: String,
    // Serves HQ until it is dropped.
    _runtime: Runtime,
}

impl Desk {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = TempDir::new().expect("temp dir");
        let folder = Folder::new(dir.path().join("hq"));
        init::init(&folder, &["127.0.0.1".into()], &["https://10.0.2.2:8443".into()])
            .expect("init");
        let runtime = Runtime::new().expect("runtime");
        let (app, listener) = runtime.block_on(async {
            let app = serve::open(&folder, Clock::default()).await.expect("HQ opens");
            (app, TcpListener::bind("127.0.0.1:0").await.expect("free port"))
        });
        let url = format!("https://{}", listener.local_addr().expect("address"));
        runtime.spawn(async move {
            serve::run(&folder, app, listener, std::future::pending()).await.expect("HQ serves");
        });
        Self { dir, url, _runtime: runtime }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forecourt"));
        command.env_clear().current_dir(self.dir.path()).args(args);
        command.env("FORECOURT_HQ", &self.url);
        command.env("FORECOURT_CA", "hq/pki/root-ca.pem");
        command.env("FORECOURT_TOKEN", "hq/operator.token");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("forecourt runs")
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {told}");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("JSON on standard output")
    }

    /// Runs what must fail: its exit code, and the error object.
    fn fails(&self, args: &[&str]) -> (i32, Value) {
        let out = self.run(&[&["--json-errors"], args].concat());
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        let last = told.lines().last().unwrap_or_default().to_owned();
        let error = serde_json::from_str(&last).unwrap_or_else(|_| panic!("{args:?}: {told}"));
        (out.status.code().expect("an exit code"), error)
    }

    /// The template's folder; `fill` is its image's byte.
    fn template(&self, release: u64, fill: u8) -> String {
        let mut image = vec![0_u8; 1024 * 1024];
        image[..512 * 1024].fill(fill);
        self.write("shop/system.raw", image);
        let yaml = format!(
            "format: 1\nname: shop\nrelease: {release}\nfirmware: bios\ncpus: 1\n\
             memory: 128 MiB\ndisks:\n  - {{name: system, role: system, image: system.raw}}\n\
             nics: 1\nvariables:\n  ADDRESS: \"\"\n"
        );
        self.write("shop/template.yaml", yaml);
        "shop".to_owned()
    }

    fn publish(&self, release: u64, fill: u8) {
        let source = self.template(release, fill);
        self.ok(&["template", "build", &source, "--out", "built"]);
        self.ok(&["template", "sign", "built", "--keys", "keys"]);
        self.ok(&["template", "publish", "built"]);
    }

    fn with_keys() -> Self {
        let desk = Self::new();
        desk.ok(&["keys", "init", "--dir", "keys", "--online", "hq/tuf-online.json"]);
        desk.ok(&["keys", "trust", "--dir", "keys"]);
        desk
    }
}

fn hint(error: &Value) -> &str {
    error["hints"][0].as_str().unwrap_or_default()
}

fn message(error: &Value) -> &str {
    error["message"].as_str().expect("a message")
}

#[test]
fn from_keys_to_claim_sticks() {
    let desk = Desk::with_keys();
    let status = desk.json(&["keys", "status", "--dir", "keys", "--json"]);
    assert_eq!(status["same_root"], true);
    desk.publish(1, 1);
    desk.publish(2, 2);
    let templates = desk.json(&["template", "list", "--json"]);
    assert_eq!(templates.as_array().expect("list").len(), 2);
    assert_eq!(desk.json(&["template", "show", "shop", "--json"])["template"]["version"], 2);
    let plan = "name: branch\nvms:\n  - name: shop\n    template: {name: shop, version: 2}\n";
    let plan = desk.write("blueprint.yaml", plan);
    assert!(desk.ok(&["blueprint", "apply", &plan]).contains("applied"));
    assert!(desk.ok(&["blueprint", "apply", &plan]).contains("unchanged"));
    let site = "name: kassel\nblueprint: branch\nvariables:\n  shop: {ADDRESS: 10.0.2.100/24}\n";
    let site = desk.write("site.yaml", site);
    let codes = desk.json(&["site", "create", &site, "--sticks", "sticks", "--json"]);
    for slot in ["A", "B"] {
        let code = std::fs::read_to_string(desk.at("sticks").join(slot).join("claim.txt"));
        assert_eq!(codes["codes"][slot], code.expect("claim.txt").trim());
        let owner = std::fs::read(desk.at("sticks").join(slot).join("owner.json"));
        let owner: OwnerBundle = serde_json::from_slice(&owner.expect("owner.json")).expect("it");
        assert_eq!(owner.hq_urls, ["https://10.0.2.2:8443"]);
        let root = std::fs::read_to_string(desk.at("keys/root.json")).expect("root.json");
        assert_eq!(owner.tuf_root_json, root);
    }
    let sites = desk.json(&["site", "list", "--json"]);
    assert_eq!(sites[0]["vms"][0]["template"]["version"], 2);
    assert!(desk.ok(&["site", "show", "kassel"]).contains("server A: empty"));
    assert!(desk.ok(&["site", "list"]).contains("empty / empty"));
    let (code, error) = desk.fails(&["site", "drain", "kassel", "A"]);
    assert_eq!((code, error["code"].as_str()), (4, Some("not_in_sync")));
    desk.ok(&["site", "rebalance", "kassel", "on"]);
    assert!(desk.ok(&["site", "show", "kassel"]).contains("rebalancing on"));
    assert_eq!(desk.json(&["witness", "show", "kassel", "--json"])["epoch"], 0);
    let claim = desk.json(&["witness", "box", "kassel", "--address", "192.0.2.9:7443", "--json"]);
    assert_eq!(claim["hq_url"], "https://10.0.2.2:8443");
    let line = desk.ok(&["witness", "box", "kassel", "--address", "192.0.2.9:7443"]);
    let line = line.lines().find(|line| line.starts_with("forecourt-witness enrol")).expect("it");
    assert!(line.contains(claim["ca_sha256"].as_str().expect("text")), "{line}");
    assert!(!line.contains(claim["code"].as_str().expect("text")), "a new code each time");
    assert_eq!(desk.json(&["server", "list", "--json"]), serde_json::json!([]));
    let events = desk.ok(&["events", "--site", "kassel", "--json"]);
    assert!(events.lines().any(|line| line.contains("site_created")), "{events}");
    let again = desk.json(&["site", "claims", "kassel", "--json"]);
    assert_ne!(again["codes"]["A"], codes["codes"]["A"]);
}

#[test]
fn an_unchanged_image_is_not_sent_twice() {
    let desk = Desk::with_keys();
    desk.publish(1, 7);
    let source = desk.template(2, 7);
    desk.ok(&["template", "build", &source, "--out", "built"]);
    desk.ok(&["template", "sign", "built", "--keys", "keys"]);
    assert!(desk.ok(&["template", "publish", "built"]).contains(" 0 B sent"));
}

#[test]
fn a_version_that_is_not_newer_is_not_signed() {
    let desk = Desk::with_keys();
    desk.publish(2, 1);
    let source = desk.template(1, 2);
    desk.ok(&["template", "build", &source, "--out", "old"]);
    let (code, error) = desk.fails(&["template", "sign", "old", "--keys", "keys"]);
    assert_eq!(code, 3);
    assert!(message(&error).contains("shop@1"), "{error}");
}

#[test]
fn what_unknown_keys_signed_hq_refuses() {
    let desk = Desk::with_keys();
    let source = desk.template(1, 1);
    desk.ok(&["keys", "init", "--dir", "thief", "--online", "hq/tuf-online.json"]);
    desk.ok(&["template", "build", &source, "--out", "built"]);
    desk.ok(&["template", "sign", "built", "--keys", "thief", "--first"]);
    let (code, error) = desk.fails(&["template", "publish", "built"]);
    assert_eq!((code, error["code"].as_str()), (4, Some("refused")), "{error}");
    let (code, error) = desk.fails(&["keys", "trust", "--dir", "thief"]);
    assert_eq!((code, error["code"].as_str()), (4, Some("refused")), "{error}");
    assert_eq!(desk.json(&["template", "list", "--json"]), serde_json::json!([]));
}

#[test]
fn keys_are_never_overwritten() {
    let desk = Desk::with_keys();
    let before = std::fs::read(desk.at("keys/root.json")).expect("root.json");
    let again = ["keys", "init", "--dir", "keys", "--online", "hq/tuf-online.json"];
    assert_eq!(desk.fails(&again).0, 3);
    assert_eq!(std::fs::read(desk.at("keys/root.json")).expect("root.json"), before);
}

#[test]
fn wrong_files_are_named_with_line_and_field() {
    let desk = Desk::with_keys();
    desk.publish(1, 1);
    let cases = [
        (
            "name: b\nvms:\n  - name: shop\n    template: {name: shop, version: 1}\n    cpus: 4\n",
            "cpus",
            5,
        ),
        ("name: b\nvms:\n  - name: shop\n    template: {name: shop, version: one}\n", "version", 4),
        ("name: b\nname: c\nvms: []\n", "name", 2),
        ("name: Bad Name\nvms: []\n", "name", 1),
    ];
    for (text, field, line) in cases {
        let file = desk.write("bad.yaml", text);
        let (code, error) = desk.fails(&["blueprint", "apply", &file]);
        assert_eq!(code, 3, "{error}");
        let told = message(&error);
        assert!(told.contains(&format!("bad.yaml:{line}")) && told.contains(field), "{told}");
    }
    let file = desk.write("site.yaml", "name: x\nblueprint: none\n");
    let (code, error) = desk.fails(&["site", "create", &file]);
    assert_eq!((code, error["code"].as_str()), (4, Some("unknown_blueprint")));
    assert!(hint(&error).contains("blueprint apply"), "{error}");
    let (code, _) = desk.fails(&["site", "create", "no-such-file.yaml"]);
    assert_eq!(code, 3);
}

#[test]
fn steps_out_of_order_say_what_to_do_first() {
    let desk = Desk::new();
    let source = desk.template(1, 1);
    desk.ok(&["template", "build", &source, "--out", "built"]);
    let (code, error) = desk.fails(&["template", "publish", "built"]);
    assert_eq!(code, 3);
    assert!(hint(&error).contains("template sign"), "{error}");
    desk.ok(&["keys", "init", "--dir", "keys"]);
    desk.ok(&["template", "sign", "built", "--keys", "keys", "--first"]);
    let (code, error) = desk.fails(&["template", "publish", "built"]);
    assert_eq!(code, 4, "{error}");
    let (code, error) = desk.fails(&["owner-bundle", "--out", "owner.json"]);
    assert_eq!((code, error["code"].as_str()), (4, Some("no_root")));
    assert!(hint(&error).contains("keys trust"), "{error}");
    let (code, error) = desk.fails(&["server", "retire", "kassel", "A"]);
    assert_eq!(code, 3);
    assert!(hint(&error).contains("--destructive"), "{error}");
}

#[test]
fn another_hq_a_wrong_token_and_no_hq_are_told_apart() {
    let (desk, other) = (Desk::new(), Desk::new());
    let ca = other.at("hq/pki/root-ca.pem").display().to_string();
    let (code, error) = desk.fails(&["--ca", &ca, "site", "list"]);
    assert_eq!(code, 5, "{error}");
    assert!(hint(&error).contains("another HQ"), "{error}");
    let token = desk.write("token", "x".repeat(43));
    let (code, error) = desk.fails(&["--token", &token, "site", "list"]);
    assert_eq!((code, error["code"].as_str()), (4, Some("bad_token")));
    let (code, error) = desk.fails(&["--hq", "https://127.0.0.1:1", "site", "list"]);
    assert_eq!(code, 5);
    assert!(hint(&error).contains("running"), "{error}");
    assert_eq!(desk.run(&["site", "explode"]).status.code(), Some(2));
}

#[test]
fn events_are_followed_as_they_happen() {
    use std::io::{BufRead, BufReader};
    let desk = Desk::with_keys();
    desk.publish(1, 1);
    let plan = "name: branch\nvms:\n  - name: shop\n    template: {name: shop, version: 1}\n";
    let plan = desk.write("blueprint.yaml", plan);
    desk.ok(&["blueprint", "apply", &plan]);
    let mut follow = desk.command(&["events", "--follow", "--json"]);
    let mut child = follow.stdout(std::process::Stdio::piped()).spawn().expect("forecourt runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut until = |code: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| line.contains(code));
        assert!(found, "the stream ended before {code}");
    };
    until("template_published");
    let site = desk.write("site.yaml", "name: kassel\nblueprint: branch\n");
    desk.ok(&["site", "create", &site]);
    until("site_created");
    child.kill().expect("killed");
    child.wait().expect("waited");
}

/// Nothing the binary needs lies outside what it is told.
#[test]
fn a_bmc_is_set_checked_and_removed() {
    let desk = Desk::with_keys();
    desk.publish(1, 1);
    let plan = "name: branch\nvms:\n  - name: shop\n    template: {name: shop, version: 1}\n";
    desk.ok(&["blueprint", "apply", &desk.write("blueprint.yaml", plan)]);
    desk.ok(&["site", "create", &desk.write("site.yaml", "name: kassel\nblueprint: branch\n")]);
    let password = desk.write("bmc-password", "s3cr3t-word\n");
    let print = "AB:".repeat(31) + "CD";
    let set = |url: &str| {
        let args = ["site", "bmc", "kassel", "B", "--url", url, "--user", "fence"];
        let rest = ["--password-file", &password, "--fingerprint", &print];
        [&args[..], &rest[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let good = set("https://10.0.0.9");
    let told = desk.ok(&good.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(told.contains("server A of kassel may switch server B") && !told.contains("s3cr3t"));
    let bad = set("http://10.0.0.9");
    let (code, error) = desk.fails(&bad.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(code, 3);
    assert!(message(&error).starts_with("url: "), "{error}");
    desk.ok(&["site", "bmc", "kassel", "B", "--remove"]);
    assert_eq!(desk.fails(&["site", "bmc", "kassel", "B", "--remove"]).0, 4);
}

#[test]
fn help_needs_nothing() {
    let out = Command::new(env!("CARGO_BIN_EXE_forecourt"))
        .env_clear()
        .current_dir(Path::new("/"))
        .args(["template", "--help"])
        .output()
        .expect("forecourt runs");
    assert!(out.status.success());
    assert!(String::from_utf8_lossy(&out.stdout).contains("publish"));
}
