// SPDX-License-Identifier: Apache-2.0
//! Two machines: tunnels on two paths, a replicated disk, and what happens when links die.
//!
//! Interfaces: `eth0` is the LAN (10.9.0.1 and .2), `eth1` the cable. A leads, cuts the links on its
//! own side, and tells B over the LAN what to do.

use crate::helper::{self, Agent};
use crate::{step, until, volumes};
use anyhow::ensure;
use hypervisor_glue::command::{Command, CommandRunner};
use hypervisor_glue::network::{HostNetwork, Network, TunnelPlan, cable_address, tunnel_address};
use hypervisor_glue::replication::{
    DiskState, DrbdReplication, LinkState, MetadataOutcome, ReplicaEvent, ReplicaSpec,
    ReplicaStatus, Replication, Role, replication_address,
};
use hypervisor_glue::{GlueError, HostRunner};
use provisioning_protocol::desired::Secret;
use provisioning_protocol::ids::NodeSlot;
use provisioning_protocol::peer::Path;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

const NUMBER: u32 = 1;
const CONTROL_B: &str = "10.9.0.2:9000";
const PRIMARY_LIMIT: Duration = Duration::from_secs(5);

struct Node {
    slot: NodeSlot,
    network: HostNetwork,
    replication: DrbdReplication,
    spec: ReplicaSpec,
    agent: Agent,
    orders: u64,
}

async fn sh(line: &str) -> anyhow::Result<String> {
    Ok(HostRunner.check(Command::new("sh", ["-c", line]).limit(Duration::from_secs(30))).await?)
}

pub async fn run(slot: NodeSlot, keys: &str) -> anyhow::Result<()> {
    let system = volumes::run().await?;
    let network = tunnels(slot, keys).await?;
    let replication = DrbdReplication::new(Arc::new(HostRunner));
    step("load DRBD", replication.load()).await?;
    let spec = ReplicaSpec {
        vm: system.vm.clone(),
        disk: system.disk.clone(),
        number: NUMBER,
        backing: system.path.clone(),
        guest_bytes: system.guest_bytes,
        own: replication_address(slot).into(),
        peer: replication_address(slot.peer()).into(),
        secret: Secret("c2VjcmV0IG9mIHRoZSBleGVyY2lzZSwgMzIgYnl0ZXM=".to_owned()),
    };
    let agent = helper::listen(FsPath::new("/run/forecourt/agent.sock"))?;
    let mut node = Node { slot, network, replication, spec, agent, orders: 0 };
    node.bring_up().await?;
    match slot {
        NodeSlot::A => node.lead().await,
        NodeSlot::B => node.follow().await,
    }
}

async fn tunnels(slot: NodeSlot, keys: &str) -> anyhow::Result<HostNetwork> {
    let (own, peer) = match slot {
        NodeSlot::A => ("10.9.0.1", "10.9.0.2"),
        NodeSlot::B => ("10.9.0.2", "10.9.0.1"),
    };
    sh(&format!("ip addr replace {own}/24 dev eth0; ip link set eth0 up")).await?;
    sh(&format!("ip addr replace {}/30 dev eth1; ip link set eth1 up", cable_address(slot)))
        .await?;
    let network = HostNetwork::new(Arc::new(HostRunner));
    let key = |slot: NodeSlot| format!("{keys}/{}.key", slot.letter());
    let own_keys = network.tunnel_keys(FsPath::new(&key(slot))).await?;
    let peer_keys = network.tunnel_keys(FsPath::new(&key(slot.peer()))).await?;
    let plan = TunnelPlan {
        slot,
        keys: own_keys,
        peer_public: peer_keys.public,
        peer_lan: Some(peer.parse()?),
    };
    step("tunnels", network.tunnels(&plan)).await?;
    step("tunnels again", network.tunnels(&plan)).await?;
    step("route over the cable", network.route_replication(slot, Path::Cable)).await?;
    ensure!(network.replication_path(slot).await? == Some(Path::Cable), "another path");
    for path in Path::BOTH {
        let address = tunnel_address(path, slot.peer());
        until(&format!("the peer answers over {path:?}"), 60, || async move {
            Ok(sh(&format!("busybox ping -6 -c 1 -W 1 {address}")).await.is_ok())
        })
        .await?;
    }
    let outside =
        format!("ip -6 route get {} from fe80::1 iif eth0", tunnel_address(Path::Lan, slot));
    ensure!(sh(&outside).await.is_err(), "an inside address can be reached from the LAN");
    println!("     {:?}", network.tunnel_status().await?);
    Ok(network)
}

impl Node {
    async fn status(&self) -> anyhow::Result<ReplicaStatus> {
        let all = self.replication.status().await?;
        all.into_iter().find(|s| s.number == NUMBER).ok_or_else(|| anyhow::anyhow!("no volume"))
    }

    async fn reaches(
        &self,
        what: &str,
        limit_s: u64,
        test: impl Fn(&ReplicaStatus) -> bool,
    ) -> anyhow::Result<()> {
        let result = until(what, limit_s, || async { Ok(test(&self.status().await?)) }).await;
        if result.is_err() {
            println!("     {:?}", self.status().await);
        }
        result
    }

    async fn bring_up(&mut self) -> anyhow::Result<()> {
        let (r, spec) = (&self.replication, &self.spec);
        let created = step("metadata", r.create_metadata(spec)).await?;
        ensure!(created == MetadataOutcome::Created, "there was some");
        let again = step("metadata again", r.create_metadata(spec)).await?;
        ensure!(again == MetadataOutcome::Existed, "written twice");
        step("attach", r.attach(spec)).await?;
        step("attach again", r.attach(spec)).await?;
        let existed = step("metadata while attached", r.create_metadata(spec)).await?;
        ensure!(existed == MetadataOutcome::Existed, "written twice");
        ensure!(r.device_bytes(NUMBER).await? == volumes::TEMPLATE_BYTES, "not the exact size");
        let mut events = r.events().await?;
        ensure!(r.skip_first_sync(spec).await.is_err(), "skipped while alone");
        step("connect", r.connect(spec)).await?;
        step("connect again", r.connect(spec)).await?;
        self.reaches("connected", 30, |s| s.link == LinkState::Connected).await?;
        let mut told = false;
        while let Ok(event) = events.try_recv() {
            let link = LinkState::Connected;
            told |= event == ReplicaEvent::Link { resource: self.spec.resource(), link };
        }
        ensure!(told, "no event told of the connection");
        if self.slot == NodeSlot::A {
            let refused = self.replication.primary(NUMBER, Duration::from_secs(1)).await;
            ensure!(refused.is_err(), "primary on inconsistent data");
            step("skip the first sync", self.replication.skip_first_sync(&self.spec)).await?;
        }
        self.reaches("both up to date", 20, |s| {
            s.disk == DiskState::UpToDate && s.peer_disk == DiskState::UpToDate
        })
        .await?;
        ensure!(self.replication.skip_first_sync(&self.spec).await.is_err(), "skipped twice");
        Ok(())
    }

    fn write(&self, block: u64, value: u8) -> tokio::task::JoinHandle<std::io::Result<()>> {
        let device = self.spec.device();
        tokio::task::spawn_blocking(move || {
            let mut options = OpenOptions::new();
            let file = options.write(true).custom_flags(0x1000 | 0x0010_0000).open(device)?;
            file.write_all_at(&[value; 4096], block * 4096)
        })
    }

    fn read(&self, block: u64) -> anyhow::Result<u8> {
        let mut bytes = [0; 4096];
        OpenOptions::new()
            .read(true)
            .open(self.spec.device())?
            .read_exact_at(&mut bytes, block * 4096)?;
        ensure!(bytes.iter().all(|b| *b == bytes[0]), "a torn block");
        Ok(bytes[0])
    }

    /// What A does.
    async fn lead(&mut self) -> anyhow::Result<()> {
        step("primary", self.replication.primary(NUMBER, PRIMARY_LIMIT)).await?;
        ensure!(self.read(0).is_err() || self.status().await?.role == Role::Primary, "role");
        step("write", self.write(3, 0x11)).await??;
        self.switch_path().await?;
        self.thaw_by_grant().await?;
        self.evict_and_rejoin().await?;
        step("primary once more", self.replication.primary(NUMBER, PRIMARY_LIMIT)).await?;
        ensure!(self.read(3)? == 0x11 && self.read(5)? == 0x55, "data lost");
        ensure!(self.read(6)? == 0x77, "not what the winner wrote");
        step("secondary", self.replication.secondary(NUMBER)).await?;
        self.order("takeover").await?;
        self.order("end").await?;
        sh("dmesg | grep -iE 'oops|BUG:|general protection' && exit 1 || true").await?;
        Ok(())
    }

    /// The cable dies; the route moves; nothing freezes for good.
    async fn switch_path(&mut self) -> anyhow::Result<()> {
        step("write before the cut", self.write(4, 0x44)).await??;
        sh("ip link set eth1 down").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.order("lan").await?;
        step("move to the LAN", self.network.route_replication(self.slot, Path::Lan)).await?;
        step("write over the LAN", self.write(4, 0x45)).await??;
        self.reaches("still or again connected", 20, |s| s.link == LinkState::Connected).await?;
        sh("ip link set eth1 up").await?;
        self.order("cable").await?;
        step("move back", self.network.route_replication(self.slot, Path::Cable)).await?;
        step("write over the cable", self.write(4, 0x46)).await??;
        Ok(())
    }

    /// Both links die; the volume freezes; a grant thaws it; B comes back as sync target.
    async fn thaw_by_grant(&mut self) -> anyhow::Result<()> {
        while self.agent.asked.try_recv().is_ok() {}
        self.agent.answer.send_replace(None);
        sh("ip link set eth1 down; ip link set eth0 down").await?;
        let frozen = self.write(5, 0x55);
        self.reaches("frozen", 10, |s| s.frozen).await?;
        step("helper asks", async { self.agent.asked.recv().await.ok_or(anyhow::anyhow!("no")) })
            .await?;
        ensure!(!frozen.is_finished(), "a write was acknowledged while frozen");
        let resource = self.spec.resource();
        let none = self.replication.helpers_gone(&resource, Duration::from_millis(200)).await;
        ensure!(matches!(none, Err(GlueError::Timeout { .. })), "the helper was not seen");
        self.agent.answer.send_replace(Some(7));
        step("thaw", frozen).await??;
        ensure!(self.status().await?.peer_disk == DiskState::Outdated, "the peer is not outdated");
        sh("ip link set eth1 up; ip link set eth0 up").await?;
        self.reaches("B caught up", 60, |s| {
            s.link == LinkState::Connected && s.peer_disk == DiskState::UpToDate
        })
        .await
    }

    /// Frozen again, this time told to let go.
    async fn evict_and_rejoin(&mut self) -> anyhow::Result<()> {
        while self.agent.asked.try_recv().is_ok() {}
        self.agent.answer.send_replace(None);
        self.order("win").await?;
        sh("ip link set eth1 down; ip link set eth0 down").await?;
        let frozen = self.write(6, 0x66);
        self.reaches("frozen", 10, |s| s.frozen).await?;
        step("helper asks", async { self.agent.asked.recv().await.ok_or(anyhow::anyhow!("no")) })
            .await?;
        self.agent.answer.send_replace(Some(1));
        let resource = self.spec.resource();
        let r = &self.replication;
        let gone = step("helpers gone", r.helpers_gone(&resource, PRIMARY_LIMIT)).await?;
        step("detach", r.detach_forced(NUMBER)).await?;
        step("resume-io", r.resume_io(NUMBER)).await?;
        let failed = step("the frozen write fails", frozen).await?;
        ensure!(failed.is_err(), "a write of the loser was acknowledged");
        step("secondary", r.secondary(NUMBER)).await?;
        step("down", r.down(gone)).await?;
        sh("ip link set eth1 up; ip link set eth0 up").await?;
        step("attach", r.attach(&self.spec)).await?;
        step("connect", r.connect(&self.spec)).await?;
        self.reaches("rejoined, and B let go", 60, |s| {
            s.link == LinkState::Connected
                && s.disk == DiskState::UpToDate
                && s.peer_role == Role::Secondary
        })
        .await
    }

    /// What B does: as A says, over the LAN.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let socket = UdpSocket::bind(CONTROL_B).await?;
        let mut done = 0;
        loop {
            let mut bytes = [0; 64];
            let (n, from) = socket.recv_from(&mut bytes).await?;
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            let Some((number, order)) = text.split_once(' ') else { continue };
            let number: u64 = number.parse()?;
            if number > done {
                match order {
                    "lan" => self.network.route_replication(self.slot, Path::Lan).await?,
                    "cable" => self.network.route_replication(self.slot, Path::Cable).await?,
                    "takeover" => self.take_over().await?,
                    _ => {}
                }
                done = number;
            }
            socket.send_to(number.to_string().as_bytes(), from).await?;
            match order {
                "win" => self.win().await?,
                "end" => return Ok(()),
                _ => {}
            }
        }
    }

    /// B wins the next loss of the link, and is the source when A comes back.
    async fn win(&mut self) -> anyhow::Result<()> {
        self.reaches("the link is lost", 60, |s| !s.link.is_up()).await?;
        self.agent.answer.send_replace(Some(7));
        step("primary by grant", self.replication.primary(NUMBER, PRIMARY_LIMIT)).await?;
        step("write alone", self.write(6, 0x77)).await??;
        self.reaches("A caught up", 120, |s| {
            s.link == LinkState::Connected && s.peer_disk == DiskState::UpToDate
        })
        .await?;
        step("secondary", self.replication.secondary(NUMBER)).await
    }

    /// B takes over, checks what A wrote, and gives it back.
    async fn take_over(&self) -> anyhow::Result<()> {
        step("primary", self.replication.primary(NUMBER, PRIMARY_LIMIT)).await?;
        ensure!(self.read(3)? == 0x11 && self.read(4)? == 0x46 && self.read(5)? == 0x55, "data");
        ensure!(self.read(6)? == 0x77, "not what B wrote");
        step("secondary", self.replication.secondary(NUMBER)).await
    }

    /// Tells B what to do and waits until it is done.
    async fn order(&mut self, order: &str) -> anyhow::Result<()> {
        self.orders += 1;
        let text = format!("{} {order}", self.orders);
        let socket = UdpSocket::bind("10.9.0.1:0").await?;
        let wait = async {
            loop {
                socket.send_to(text.as_bytes(), CONTROL_B).await?;
                let mut bytes = [0; 64];
                let heard = socket.recv_from(&mut bytes);
                if tokio::time::timeout(Duration::from_secs(2), heard).await.is_ok() {
                    return Ok::<(), std::io::Error>(());
                }
            }
        };
        step(&format!("B: {order}"), wait).await
    }
}
