// SPDX-License-Identifier: Apache-2.0
//! A user-space Ethernet switch whose links can be cut, over Unix datagram sockets.
//!
//! QEMU's `-netdev dgram` sends each frame as one datagram to the switch's socket of that port and
//! receives on its own. No privileges, no host interfaces. A port has a reading and a writing thread
//! with a bounded queue between: a frozen server cannot hold up the others, its frames are dropped
//! as a full switch buffer would drop them.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Frames that wait for one port.
const QUEUE_FRAMES_MAX: usize = 2048;
/// Largest frame QEMU sends.
const FRAME_BYTES_MAX: usize = 70_000;
/// How long a thread blocks before it looks whether the switch is being taken down.
const TICK: Duration = Duration::from_millis(250);

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Reads `52:54:00:00:00:01`.
#[must_use]
pub fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Which way frames of a port travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the machine into the switch.
    In,
    /// From the switch to the machine.
    Out,
}

struct Port {
    name: String,
    socket: UnixDatagram,
    peer: PathBuf,
    queue: SyncSender<Arc<[u8]>>,
    cut_in: AtomicBool,
    cut_out: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Tables {
    where_is: HashMap<Mac, usize>,
    bytes: HashMap<(Mac, Mac), u64>,
    blocked: HashSet<(Mac, Mac)>,
}

struct Shared {
    name: String,
    ports: Vec<Port>,
    tables: Mutex<Tables>,
    ending: AtomicBool,
}

/// A running switch; it ends when dropped.
pub struct Switch(Arc<Shared>);

/// What went through a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortBytes {
    /// From the machine.
    pub bytes_in: u64,
    /// To the machine.
    pub bytes_out: u64,
    /// Frames from a cut machine, and frames for a machine that was off or had no room.
    pub frames_dropped: u64,
}

impl Switch {
    /// Starts a switch with these ports; their sockets are made in `dir`.
    pub fn start(dir: &Path, name: &str, ports: &[&str]) -> std::io::Result<Self> {
        let mut made = Vec::new();
        let mut queues = Vec::new();
        for port in ports {
            let path = switch_socket(dir, name, port);
            std::fs::remove_file(&path).ok();
            let socket = UnixDatagram::bind(&path)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.set_write_timeout(Some(TICK))?;
            let (queue, frames) = sync_channel(QUEUE_FRAMES_MAX);
            made.push(Port {
                name: (*port).to_owned(),
                socket,
                peer: machine_socket(dir, name, port),
                queue,
                cut_in: AtomicBool::new(false),
                cut_out: AtomicBool::new(false),
                bytes_in: AtomicU64::new(0),
                bytes_out: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            });
            queues.push(frames);
        }
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            ports: made,
            tables: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        for (index, frames) in queues.into_iter().enumerate() {
            let reader = Arc::clone(&shared);
            std::thread::spawn(move || reader.read(index));
            let writer = Arc::clone(&shared);
            std::thread::spawn(move || writer.write(index, &frames));
        }
        Ok(Self(shared))
    }

    /// Cuts one direction of a port.
    pub fn cut(&self, port: &str, direction: Direction) {
        self.set(port, direction, true);
    }

    /// Heals one direction of a port.
    pub fn heal(&self, port: &str, direction: Direction) {
        self.set(port, direction, false);
    }

    /// Cuts a port's cable.
    pub fn cut_both(&self, port: &str) {
        self.cut(port, Direction::In);
        self.cut(port, Direction::Out);
    }

    /// Plugs a port's cable in again.
    pub fn heal_both(&self, port: &str) {
        self.heal(port, Direction::In);
        self.heal(port, Direction::Out);
    }

    /// Heals every port.
    pub fn heal_all(&self) {
        for port in &self.0.ports {
            self.heal_both(&port.name);
        }
    }

    /// Lets every frame that was blocked pass again.
    pub fn unblock_all(&self) {
        let mut tables = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.blocked.clear();
    }

    /// Drops frames from one address to another, or lets them pass again: an outage of what lies
    /// behind one machine, for some of the others only.
    pub fn block(&self, from: Mac, to: Mac, blocked: bool) {
        let mut tables = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if blocked {
            tables.blocked.insert((from, to));
        } else {
            tables.blocked.remove(&(from, to));
        }
    }

    /// What went through a port.
    #[must_use]
    pub fn port_bytes(&self, port: &str) -> PortBytes {
        let port = self.port(port);
        PortBytes {
            bytes_in: port.bytes_in.load(Ordering::Relaxed),
            bytes_out: port.bytes_out.load(Ordering::Relaxed),
            frames_dropped: port.dropped.load(Ordering::Relaxed),
        }
    }

    /// Bytes of the frames that went from one address to another.
    #[must_use]
    pub fn bytes(&self, from: Mac, to: Mac) -> u64 {
        let tables = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.bytes.get(&(from, to)).copied().unwrap_or(0)
    }

    fn set(&self, port: &str, direction: Direction, cut: bool) {
        let port = self.port(port);
        match direction {
            Direction::In => port.cut_in.store(cut, Ordering::SeqCst),
            Direction::Out => port.cut_out.store(cut, Ordering::SeqCst),
        }
    }

    fn port(&self, name: &str) -> &Port {
        let found = self.0.ports.iter().find(|port| port.name == name);
        found.unwrap_or_else(|| panic!("switch {} has no port {name}", self.0.name))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.0.ending.store(true, Ordering::SeqCst);
    }
}

/// The socket of a port on the switch's side.
pub(crate) fn switch_socket(dir: &Path, switch: &str, port: &str) -> PathBuf {
    dir.join(format!("{switch}-{port}.sw"))
}

/// The socket of a port on the machine's side.
pub(crate) fn machine_socket(dir: &Path, switch: &str, port: &str) -> PathBuf {
    dir.join(format!("{switch}-{port}.vm"))
}

/// QEMU's `-netdev` argument for the machine at a port.
#[must_use]
pub fn netdev_arg(dir: &Path, switch: &str, port: &str, id: &str) -> String {
    let local = machine_socket(dir, switch, port);
    let remote = switch_socket(dir, switch, port);
    format!(
        "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
        local.display(),
        remote.display()
    )
}

impl Shared {
    fn read(&self, index: usize) {
        let port = &self.ports[index];
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while !self.ending.load(Ordering::Relaxed) {
            match port.socket.recv(&mut buffer) {
                Ok(length) if length >= 14 => {
                    if port.cut_in.load(Ordering::Relaxed) {
                        port.dropped.fetch_add(1, Ordering::Relaxed);
                    } else {
                        port.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
                        self.forward(index, &buffer[..length]);
                    }
                }
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(_) => std::thread::sleep(TICK),
            }
        }
    }

    fn forward(&self, from: usize, frame: &[u8]) {
        let (to_mac, from_mac) = macs(frame);
        let known = {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            tables.where_is.insert(from_mac, from);
            if tables.blocked.contains(&(from_mac, to_mac)) {
                return;
            }
            *tables.bytes.entry((from_mac, to_mac)).or_default() += frame.len() as u64;
            let is_group = to_mac[0] & 1 == 1;
            if is_group { None } else { tables.where_is.get(&to_mac).copied() }
        };
        let frame: Arc<[u8]> = frame.into();
        for (index, port) in self.ports.iter().enumerate() {
            let wanted = known.is_none_or(|known| known == index) && index != from;
            if wanted
                && !port.cut_out.load(Ordering::Relaxed)
                && port.queue.try_send(Arc::clone(&frame)).is_err()
            {
                port.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn forget(&self, index: usize) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.where_is.retain(|_, port| *port != index);
    }

    fn write(&self, index: usize, frames: &Receiver<Arc<[u8]>>) {
        let port = &self.ports[index];
        while !self.ending.load(Ordering::Relaxed) {
            let Ok(frame) = frames.recv_timeout(TICK) else { continue };
            // It fails when the machine is off or frozen: the frame is lost, as on a real wire.
            match port.socket.send_to(&frame, &port.peer) {
                Ok(_) => {
                    port.bytes_out.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    continue;
                }
                // A switch forgets what it learnt on a port whose link went down.
                Err(error) if is_off(&error) => self.forget(index),
                Err(_) => {}
            }
            port.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn is_off(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
}

fn macs(frame: &[u8]) -> (Mac, Mac) {
    let mut to = [0; 6];
    let mut from = [0; 6];
    to.copy_from_slice(&frame[..6]);
    from.copy_from_slice(&frame[6..12]);
    (to, from)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::{Direction, Mac, Switch, machine_socket, parse_mac, switch_socket};
    use std::os::unix::net::UnixDatagram;
    use std::path::Path;
    use std::time::Duration;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];
    const C: Mac = [2, 0, 0, 0, 0, 3];
    const ALL: Mac = [255; 6];

    struct Machine(UnixDatagram, std::path::PathBuf);

    impl Machine {
        fn new(dir: &Path, port: &str) -> Self {
            let socket = UnixDatagram::bind(machine_socket(dir, "t", port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            Self(socket, switch_socket(dir, "t", port))
        }

        fn send(&self, to: Mac, from: Mac, body: &[u8]) {
            let frame = [&to[..], &from[..], &[8, 0], body].concat();
            self.0.send_to(&frame, &self.1).unwrap();
        }

        fn hears(&self, body: &[u8]) {
            let mut buffer = [0; 2000];
            let length = self.0.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[14..length], body);
        }

        fn hears_nothing(&self) {
            self.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            assert!(self.0.recv(&mut [0; 2000]).is_err());
            self.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        }
    }

    fn trio() -> (crate::rundir::TempDir, Switch, Machine, Machine, Machine) {
        let dir = crate::rundir::temp_dir("sw").unwrap();
        let switch = Switch::start(dir.path(), "t", &["a", "b", "c"]).unwrap();
        let (a, b, c) = (
            Machine::new(dir.path(), "a"),
            Machine::new(dir.path(), "b"),
            Machine::new(dir.path(), "c"),
        );
        (dir, switch, a, b, c)
    }

    #[test]
    fn addresses_are_learnt_and_counted() {
        let (_dir, switch, a, b, c) = trio();
        a.send(ALL, A, b"who");
        b.hears(b"who");
        c.hears(b"who");
        b.send(A, B, b"me");
        a.hears(b"me");
        c.hears_nothing();
        assert_eq!(switch.bytes(B, A), 16);
        assert_eq!(switch.bytes(A, B), 0);
        assert_eq!(switch.port_bytes("a").bytes_in, 17);
    }

    #[test]
    fn each_direction_is_cut_alone_and_heals() {
        let (_dir, switch, a, b, c) = trio();
        c.send(ALL, C, b"here");
        a.hears(b"here");
        b.hears(b"here");
        switch.cut("b", Direction::In);
        b.send(C, B, b"lost");
        a.send(ALL, A, b"one way");
        b.hears(b"one way");
        c.hears(b"one way");
        // What the cut took is gone for good, so wait until it was taken.
        let taken = || Ok((switch.port_bytes("b").frames_dropped == 1).then_some(()));
        crate::wait::wait_for("the lost frame", Duration::from_secs(2), taken).unwrap();
        switch.heal("b", Direction::In);
        switch.cut("b", Direction::Out);
        b.send(C, B, b"out");
        c.hears(b"out");
        c.send(B, C, b"lost too");
        b.hears_nothing();
        switch.heal_all();
        c.send(B, C, b"back");
        b.hears(b"back");
    }

    #[test]
    fn a_block_stops_one_way_between_two_machines_only() {
        let (_dir, switch, a, b, c) = trio();
        b.send(ALL, B, b"b");
        a.hears(b"b");
        c.hears(b"b");
        c.send(A, C, b"learnt");
        // A was not known yet: B hears it too.
        a.hears(b"learnt");
        b.hears(b"learnt");
        switch.block(A, B, true);
        a.send(B, A, b"lost");
        a.send(C, A, b"c");
        c.hears(b"c");
        b.send(A, B, b"back");
        a.hears(b"back");
        b.hears_nothing();
        switch.block(A, B, false);
        a.send(B, A, b"again");
        b.hears(b"again");
    }

    #[test]
    fn an_address_is_found_again_after_its_machine_died() {
        let (_dir, switch, a, b, c) = trio();
        b.send(ALL, B, b"here");
        a.hears(b"here");
        c.hears(b"here");
        drop(b);
        a.send(B, A, b"lost");
        let dropped = || Ok((switch.port_bytes("b").frames_dropped == 1).then_some(()));
        crate::wait::wait_for("the loss", Duration::from_secs(2), dropped).unwrap();
        // Flooded: whoever has taken over the address hears it.
        a.send(B, A, b"anyone");
        c.hears(b"anyone");
    }

    #[test]
    fn a_machine_that_does_not_read_holds_up_nobody() {
        let (_dir, switch, a, b, c) = trio();
        b.send(ALL, B, b"x");
        a.hears(b"x");
        c.hears(b"x");
        c.send(ALL, C, b"y");
        a.hears(b"y");
        // The frozen machine's own socket buffer and the queue fill; nothing blocks.
        for _ in 0..4000 {
            a.send(B, A, &[7; 1000]);
        }
        a.send(C, A, b"alive");
        c.hears(b"alive");
        assert!(switch.port_bytes("b").frames_dropped > 0);
    }

    #[test]
    fn only_whole_addresses_are_read() {
        assert_eq!(parse_mac("02:00:00:00:00:01"), Some(A));
        for bad in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:00:00:00:00:zz"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }
}
