// SPDX-License-Identifier: Apache-2.0
//! The LAN's way out: a QEMU without a machine that joins the LAN switch to QEMU's user network.
//!
//! It gives DHCP (10.0.2.15 on), answers as 10.0.2.2 for this host's loopback, where HQ listens, and
//! forwards ports of this host's loopback to addresses on the LAN. Cutting its port is a WAN outage.

use crate::net::{Mac, netdev_arg};
use crate::process::Child;
use crate::qmp::Qmp;
use crate::rundir::RunDir;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// The gateway's port on the LAN switch.
pub const PORT: &str = "wan";
/// The gateway's Ethernet address: 52:55 and its IPv4 address.
pub const MAC: Mac = [0x52, 0x55, 10, 0, 2, 2];
/// This host as servers see it.
pub const HOST_ADDRESS: &str = "10.0.2.2";

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    qmp: Qmp,
}

impl Gateway {
    /// Starts the gateway of the switch `switch`.
    pub fn start(run: &RunDir, switch: &str) -> anyhow::Result<Self> {
        let socket = run.sockets().join("gw.qmp");
        let args = [
            "-machine".to_owned(),
            "none".to_owned(),
            "-nodefaults".to_owned(),
            "-no-user-config".to_owned(),
            "-display".to_owned(),
            "none".to_owned(),
            "-netdev".to_owned(),
            "user,id=slirp".to_owned(),
            "-netdev".to_owned(),
            netdev_arg(run.sockets(), switch, PORT, "lan"),
            "-netdev".to_owned(),
            "hubport,id=h0,hubid=0,netdev=slirp".to_owned(),
            "-netdev".to_owned(),
            "hubport,id=h1,hubid=0,netdev=lan".to_owned(),
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", socket.display()),
        ];
        let log = run.path().join("gateway.log");
        let program = Path::new("qemu-system-x86_64");
        let child = Child::spawn(run.book(), "gateway", &log, program, args)?;
        let qmp = Qmp::connect(&socket, Duration::from_secs(10))?;
        Ok(Self { child, qmp })
    }

    /// Forwards a free port of this host's loopback to `address:port` on the LAN; returns it.
    pub fn forward(&mut self, address: &str, port: u16) -> anyhow::Result<u16> {
        self.child.check_alive()?;
        let local = free_port()?;
        self.qmp.human(&format!("hostfwd_add slirp tcp:127.0.0.1:{local}-{address}:{port}"))?;
        Ok(local)
    }
}

/// A port of the loopback that nobody listens on now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
