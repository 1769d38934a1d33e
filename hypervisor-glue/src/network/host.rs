// SPDX-License-Identifier: Apache-2.0
//! The server's network by networkd files, `ip` and `wg`.

use super::{
    BRIDGE, Network, NicRoles, TunnelKeys, TunnelPlan, TunnelStatus, files, nics, tunnel,
    tunnel_address, tunnel_interface,
};
use crate::command::{Command, CommandRunner};
use crate::error::{GlueError, Result};
use crate::replication::replication_address;
use async_trait::async_trait;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::Path;
use serde::Deserialize;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

/// All addresses inside the tunnels: nothing outside may reach them.
const INSIDE: &str = "fd46:4f52:4500::/40";
/// Inside WireGuard on a 1500-byte path, IPv4 or IPv6.
const TUNNEL_MTU: &str = "1420";

const NETWORKD_SETTINGS: &str = "# Written by forecourt-agent.\n[Network]\n\
    ManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n";

/// [`Network`] of this server.
pub struct HostNetwork {
    runner: Arc<dyn CommandRunner>,
    sys_class_net: PathBuf,
    networkd_dir: PathBuf,
}

impl HostNetwork {
    /// This server's network.
    #[must_use]
    pub fn new(runner: Arc<dyn CommandRunner>) -> Self {
        Self {
            runner,
            sys_class_net: "/sys/class/net".into(),
            networkd_dir: "/run/systemd/network".into(),
        }
    }

    /// With other folders, for tests.
    #[must_use]
    pub fn with_dirs(
        runner: Arc<dyn CommandRunner>,
        sys_class_net: PathBuf,
        networkd_dir: PathBuf,
    ) -> Self {
        Self { runner, sys_class_net, networkd_dir }
    }

    async fn ip(&self, words: &[&str]) -> Result<String> {
        self.runner.check(Command::new("ip", words.iter().copied())).await
    }

    /// networkd would remove our rules and routes as not its own.
    fn write_networkd_settings(&self) -> Result<()> {
        let dir = self.networkd_dir.with_file_name("networkd.conf.d");
        let path = dir.join("10-forecourt.conf");
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&path, NETWORKD_SETTINGS))
            .map_err(|err| GlueError::file("write", &path, err))
    }

    async fn reload_networkd(&self) -> Result<()> {
        let active = ["is-active", "--quiet", "systemd-networkd.service"];
        if self.runner.run(Command::new("systemctl", active)).await?.ok() {
            self.runner.check(Command::new("networkctl", ["reload"])).await?;
        }
        Ok(())
    }

    /// Writes what changed; whether anything did.
    fn write_files(&self, wanted: &[(String, String)]) -> Result<bool> {
        let dir = &self.networkd_dir;
        std::fs::create_dir_all(dir).map_err(|err| GlueError::file("make", dir, err))?;
        let mut changed = false;
        for (name, text) in wanted {
            let path = dir.join(name);
            if std::fs::read_to_string(&path).is_ok_and(|old| &old == text) {
                continue;
            }
            let new = dir.join(format!(".{name}.new"));
            std::fs::write(&new, text)
                .and_then(|()| std::fs::rename(&new, &path))
                .map_err(|err| GlueError::file("write", &path, err))?;
            changed = true;
        }
        Ok(changed)
    }

    /// Makes addresses inside the tunnels unreachable from everywhere else: Linux would take a
    /// packet for them on any interface. The rule that shuts comes last, so a crash on the way
    /// leaves things open and the next try finishes.
    async fn fence_inside(&self) -> Result<()> {
        let rules = self.ip(&["-6", "rule", "show"]).await?;
        if rules.lines().any(|line| line.starts_with("10:") && line.contains("blackhole")) {
            return Ok(());
        }
        self.rule("add", "20", &["lookup", "local"]).await?;
        for interface in ["lo", "wg-cable", "wg-lan"] {
            for (pref, table) in [("5", "local"), ("6", "main")] {
                self.rule("add", pref, &["iif", interface, "to", INSIDE, "lookup", table]).await?;
            }
        }
        self.rule("del", "0", &["lookup", "local"]).await?;
        self.rule("add", "10", &["to", INSIDE, "blackhole"]).await
    }

    /// Adds or removes a policy rule; it is fine if that was done already.
    async fn rule(&self, verb: &str, pref: &str, what: &[&str]) -> Result<()> {
        let words = [&["-6", "rule", verb, "pref", pref][..], what].concat();
        let command = Command::new("ip", words);
        let shown = command.shown();
        let finished = self.runner.run(command).await?;
        let done_before =
            ["File exists", "No such file"].iter().any(|text| finished.stderr.contains(text));
        if finished.ok() || done_before {
            return Ok(());
        }
        Err(crate::command::failed(shown, &finished))
    }

    async fn tunnel(&self, plan: &TunnelPlan, path: Path) -> Result<()> {
        let interface = tunnel_interface(path);
        if !self.sys_class_net.join(interface).exists() {
            self.ip(&["link", "add", interface, "type", "wireguard"]).await?;
        }
        let configuration = tunnel::configuration(plan, path);
        let sync =
            Command::new("wg", ["syncconf", interface, "/proc/self/fd/0"]).stdin(configuration);
        self.runner.check(sync).await?;
        let address = format!("{}/64", tunnel_address(path, plan.slot));
        self.ip(&["-6", "addr", "replace", &address, "dev", interface, "nodad"]).await?;
        self.ip(&["link", "set", interface, "mtu", TUNNEL_MTU, "up"]).await.map(drop)
    }
}

#[derive(Deserialize)]
struct LinkAddresses {
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<IpAddr>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    tentative: bool,
    #[serde(default)]
    temporary: bool,
}

#[derive(Deserialize)]
struct Route {
    dev: Option<String>,
}

fn parse_addresses(text: &str) -> Result<Vec<IpAddr>> {
    let links: Vec<LinkAddresses> =
        serde_json::from_str(text).map_err(|err| GlueError::parse("ip's addresses", err))?;
    Ok(links
        .into_iter()
        .flat_map(|link| link.addr_info)
        .filter(|address| address.scope == "global" && !address.tentative && !address.temporary)
        .filter_map(|address| address.local)
        .collect())
}

fn public_file(private: &FsPath) -> std::path::PathBuf {
    private.with_extension("pub")
}

fn save_key(file: &FsPath, key: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut out =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(format!("{key}\n").as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&new, file)?;
    file.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

#[async_trait]
impl Network for HostNetwork {
    async fn roles(&self) -> Result<NicRoles> {
        nics::roles(&self.sys_class_net)
    }

    async fn configure(&self, slot: Option<NodeSlot>) -> Result<NicRoles> {
        let roles = nics::roles(&self.sys_class_net)?;
        self.write_networkd_settings()?;
        if self.write_files(&files::networkd_files(&roles, slot))? {
            tracing::info!(?slot, lan = ?roles.lan, cable = ?roles.cable, "network definitions changed");
            self.reload_networkd().await?;
        }
        Ok(roles)
    }

    async fn lan_addresses(&self) -> Result<Vec<IpAddr>> {
        if !self.sys_class_net.join(BRIDGE).exists() {
            return Ok(Vec::new());
        }
        parse_addresses(&self.ip(&["-j", "addr", "show", "dev", BRIDGE]).await?)
    }

    async fn tunnel_keys(&self, file: &FsPath) -> Result<TunnelKeys> {
        let private = match std::fs::read_to_string(file) {
            Ok(text) => text.trim().to_owned(),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                let made = self.runner.check(Command::new("wg", ["genkey"])).await?;
                let made = made.trim().to_owned();
                drop(std::fs::remove_file(public_file(file)));
                save_key(file, &made).map_err(|err| GlueError::file("write", file, err))?;
                made
            }
            Err(err) => return Err(GlueError::file("read", file, err)),
        };
        if !tunnel::is_key(&private) {
            return Err(GlueError::parse(file.display().to_string(), "it holds no tunnel key"));
        }
        // Kept, since a restarted agent is in a hurry.
        let kept = public_file(file);
        if let Ok(public) = std::fs::read_to_string(&kept)
            && tunnel::is_key(public.trim())
        {
            return Ok(TunnelKeys { private, public: public.trim().to_owned() });
        }
        let ask = Command::new("wg", ["pubkey"]).stdin(format!("{private}\n"));
        let public = self.runner.check(ask).await?.trim().to_owned();
        save_key(&kept, &public).map_err(|err| GlueError::file("write", &kept, err))?;
        Ok(TunnelKeys { private, public })
    }

    async fn tunnels(&self, plan: &TunnelPlan) -> Result<()> {
        for key in [&plan.keys.private, &plan.peer_public] {
            if !tunnel::is_key(key) {
                return Err(GlueError::refused("bring tunnels up", "a key is no WireGuard key"));
            }
        }
        for path in Path::BOTH {
            self.tunnel(plan, path).await?;
        }
        let own = format!("{}/128", replication_address(plan.slot));
        self.ip(&["-6", "addr", "replace", &own, "dev", "lo", "nodad"]).await?;
        self.fence_inside().await
    }

    async fn route_replication(&self, slot: NodeSlot, path: Path) -> Result<()> {
        let peer = format!("{}/128", replication_address(slot.peer()));
        let own = replication_address(slot).to_string();
        let interface = tunnel_interface(path);
        self.ip(&["-6", "route", "replace", &peer, "dev", interface, "src", &own]).await?;
        tracing::info!(?path, "replication takes this path");
        Ok(())
    }

    async fn replication_path(&self, slot: NodeSlot) -> Result<Option<Path>> {
        let peer = format!("{}/128", replication_address(slot.peer()));
        let text = self.ip(&["-j", "-6", "route", "show", &peer]).await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let routes: Vec<Route> =
            serde_json::from_str(&text).map_err(|err| GlueError::parse("ip's routes", err))?;
        let device = routes.into_iter().find_map(|route| route.dev);
        Ok(Path::BOTH.into_iter().find(|path| device.as_deref() == Some(tunnel_interface(*path))))
    }

    async fn tunnel_status(&self) -> Result<Vec<TunnelStatus>> {
        let dump = self.runner.check(Command::new("wg", ["show", "all", "dump"])).await?;
        Ok(tunnel::status(&dump))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{FakeRunner, Finished};
    use std::os::unix::fs::PermissionsExt;

    const KEY: &str = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";

    fn network(dir: &FsPath, runner: &FakeRunner) -> HostNetwork {
        let (sys, networkd) = (dir.join("sys"), dir.join("networkd"));
        std::fs::create_dir_all(sys.join("eth0")).expect("sys");
        let device = dir.join("devices/pci0000:00/0000:00:03.0/virtio0");
        std::fs::create_dir_all(&device).expect("device");
        let link = sys.join("eth0/device");
        if !link.exists() {
            std::os::unix::fs::symlink(device, link).expect("link");
        }
        std::fs::write(sys.join("eth0/type"), "1").expect("type");
        std::fs::write(sys.join("eth0/address"), "52:54:00:00:00:01").expect("address");
        HostNetwork::with_dirs(Arc::new(runner.clone()), sys, networkd)
    }

    #[tokio::test]
    async fn networkd_is_reloaded_only_when_something_changed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let runner = FakeRunner::new();
        runner.on_prefix("", Finished::with_stdout(""));
        let network = network(dir.path(), &runner);
        for _ in 0..2 {
            network.configure(None).await.expect("configured");
        }
        let reloads = runner.ran().iter().filter(|line| *line == "networkctl reload").count();
        assert_eq!(reloads, 1, "{:?}", runner.ran());
    }

    #[tokio::test]
    async fn before_networkd_runs_nothing_is_reloaded() {
        let dir = tempfile::tempdir().expect("temp dir");
        let runner = FakeRunner::new();
        runner.on_prefix("systemctl is-active", Finished::with_code(3, ""));
        let roles = network(dir.path(), &runner).configure(None).await.expect("configured");
        assert_eq!(roles.lan.map(|nic| nic.name).as_deref(), Some("eth0"));
        assert_eq!(runner.ran().len(), 1);
    }

    #[tokio::test]
    async fn the_private_key_is_made_once_and_never_in_an_argument() {
        let dir = tempfile::tempdir().expect("temp dir");
        let runner = FakeRunner::new();
        runner.on_prefix("wg genkey", Finished::with_stdout(format!("{KEY}\n")));
        runner.on_prefix("wg pubkey", Finished::with_stdout("PUBLIC\n"));
        let network = network(dir.path(), &runner);
        let file = dir.path().join("wg.key");
        for _ in 0..2 {
            assert_eq!(network.tunnel_keys(&file).await.expect("keys").public, "PUBLIC");
        }
        let mode = std::fs::metadata(&file).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(runner.ran().iter().filter(|line| line.contains("genkey")).count(), 1);
        assert!(
            runner.commands().iter().all(|command| !format!("{:?}", command.args).contains(KEY))
        );
    }

    #[tokio::test]
    async fn a_peer_key_with_a_line_break_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let runner = FakeRunner::new();
        let plan = TunnelPlan {
            slot: NodeSlot::A,
            keys: TunnelKeys { private: KEY.into(), public: String::new() },
            peer_public: format!("{}\nEndpoint", &KEY[..35]),
            peer_lan: None,
        };
        let err = network(dir.path(), &runner).tunnels(&plan).await.expect_err("refused");
        assert!(matches!(err, GlueError::Refused { .. }), "{err}");
        assert!(runner.ran().is_empty());
    }

    #[test]
    fn only_lasting_global_addresses_are_told() {
        let text = r#"[{"addr_info":[
            {"local":"10.0.2.15","scope":"global"},{"local":"fe80::1","scope":"link"},
            {"local":"2001:db8::1","scope":"global","tentative":true},
            {"local":"2001:db8::2","scope":"global","temporary":true}]},{}]"#;
        let expected: Vec<IpAddr> = vec!["10.0.2.15".parse().expect("valid")];
        assert_eq!(parse_addresses(text).expect("parsed"), expected);
        assert!(parse_addresses("[{]").is_err());
    }
}
