// SPDX-License-Identifier: Apache-2.0
//! Memory of VMs that move live, from server to server inside the tunnels: who connects says for
//! which QEMU it is, in one line, and hears `ok` before anything else goes over.

use hypervisor_glue::vms::Accel;
use provisioning_protocol::ids::{NodeSlot, SiteName, VmName};
use provisioning_protocol::peer::{MEMORY_OFFER_BYTES_MAX, MemoryOffer, PEER_MEMORY_PORT, Path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// What may be on its way. QEMU takes all that the sockets hold for sent, and counts on the rate at
/// which they fill: what waits in them when the guest is stopped prolongs its pause.
const WIRE_BYTES: u32 = 256 << 10;
/// Streams that wait to be accepted.
const STREAMS_WAITING: u32 = 16;
/// One VM moves at a time; a few more may still be on their way out.
const STREAMS_MAX: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const TALK_LIMIT: Duration = Duration::from_secs(5);
const BIND_RETRY: Duration = Duration::from_millis(500);
const OK: &str = "ok";

/// Own and peer's address of a path.
pub type MemoryEnds = (SocketAddr, SocketAddr);

/// What a QEMU waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Awaited {
    ticket: u64,
    accel: Accel,
}

/// A stream that has been accepted.
#[derive(Debug)]
pub struct Arrival {
    /// Whose memory.
    pub vm: VmName,
    /// For which QEMU.
    pub ticket: u64,
    /// It follows here.
    pub wire: TcpStream,
}

/// The way memory goes between the two servers.
#[derive(Debug, Clone)]
pub struct MemoryLink {
    site: SiteName,
    ends: Arc<Vec<MemoryEnds>>,
    awaited: Arc<Mutex<BTreeMap<VmName, Awaited>>>,
    streams: Arc<Semaphore>,
}

impl MemoryLink {
    /// The ends inside the tunnels.
    #[must_use]
    pub fn in_tunnels(site: SiteName, slot: NodeSlot) -> Self {
        let address = |path, slot| IpAddr::V6(hypervisor_glue::network::tunnel_address(path, slot));
        let end = |path, slot| SocketAddr::new(address(path, slot), PEER_MEMORY_PORT);
        Self::new(site, Path::BOTH.map(|path| (end(path, slot), end(path, slot.peer()))).into())
    }

    /// These ends, the preferred one first.
    #[must_use]
    pub fn new(site: SiteName, ends: Vec<MemoryEnds>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { site, ends: Arc::new(ends), awaited: Arc::default(), streams }
    }

    /// A QEMU waits for a VM's memory.
    pub fn await_memory(&self, vm: &VmName, ticket: u64, accel: Accel) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        awaited.insert(vm.clone(), Awaited { ticket, accel });
    }

    /// None waits for it any more.
    pub fn forget(&self, vm: &VmName) {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner).remove(vm);
    }

    /// Accepts streams on all paths, for as long as someone takes them.
    pub fn listen(&self, out: &mpsc::Sender<Arrival>) {
        for (own, peer) in self.ends.iter().copied() {
            let (link, out) = (self.clone(), out.clone());
            tokio::spawn(async move { link.side(own, peer, out).await });
        }
    }

    async fn side(self, own: SocketAddr, peer: SocketAddr, out: mpsc::Sender<Arrival>) {
        let listener = loop {
            match listener(own) {
                Ok(listener) => break listener,
                Err(_) if out.is_closed() => return,
                Err(_) => tokio::time::sleep(BIND_RETRY).await,
            }
        };
        while !out.is_closed() {
            let Ok((wire, from)) = listener.accept().await else {
                tokio::time::sleep(BIND_RETRY).await;
                continue;
            };
            let Ok(permit) = self.streams.clone().try_acquire_owned() else { continue };
            if from.ip() != peer.ip() {
                tracing::warn!(%from, "a stranger's stream dropped");
                continue;
            }
            let (link, out) = (self.clone(), out.clone());
            tokio::spawn(async move {
                let _permit = permit;
                match timeout(TALK_LIMIT, link.greet(wire)).await {
                    Ok(Ok(arrival)) => drop(out.send(arrival).await),
                    Ok(Err(error)) => tracing::warn!(%from, %error, "stream refused"),
                    Err(_) => tracing::warn!(%from, "a stream that says nothing was dropped"),
                }
            });
        }
    }

    async fn greet(&self, mut wire: TcpStream) -> io::Result<Arrival> {
        let line = read_line(&mut wire).await?;
        match self.claim(&line) {
            Ok((vm, ticket)) => {
                say(&mut wire, OK).await?;
                wire.set_nodelay(true)?;
                Ok(Arrival { vm, ticket, wire })
            }
            Err(reason) => {
                say(&mut wire, reason).await?;
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
        }
    }

    /// Whom an offer is for; a ticket is good for one stream.
    fn claim(&self, line: &[u8]) -> Result<(VmName, u64), &'static str> {
        let offer: Offer = serde_json::from_slice(line).map_err(|_| "not an offer of memory")?;
        let MemoryOffer { site, vm, ticket } = offer.memory;
        if site != self.site {
            return Err("memory of another site");
        }
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = awaited.get(&vm).copied().filter(|waits| waits.ticket == ticket);
        let waits = waits.ok_or("no QEMU waits for this memory")?;
        if offer.accel != word(waits.accel) {
            return Err("guests run in another way on this server");
        }
        awaited.remove(&vm);
        Ok((vm, ticket))
    }

    /// Connects to the peer's QEMU of this ticket by the first path that works.
    ///
    /// # Errors
    /// If no path does, or the peer refuses.
    pub async fn dial(&self, vm: &VmName, ticket: u64, accel: Accel) -> io::Result<TcpStream> {
        let memory = MemoryOffer { site: self.site.clone(), vm: vm.clone(), ticket };
        let offer = Offer { memory, accel: word(accel).to_owned() };
        let line = serde_json::to_string(&offer).expect("plain data becomes JSON");
        let mut last = io::Error::other("there is no way to the other server");
        for (own, peer) in self.ends.iter() {
            match timeout(CONNECT_LIMIT, connect(*own, *peer)).await {
                Ok(Ok(wire)) => return offer_on(wire, &line).await,
                Ok(Err(err)) => last = err,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }
}

/// The first line: whose memory, and how the guest was run, which the other server must do alike.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    #[serde(flatten)]
    memory: MemoryOffer,
    accel: String,
}

/// Whether a line offers memory to a server that waits for some, for the fuzz targets.
#[doc(hidden)]
#[must_use]
pub fn read_any(line: &[u8]) -> bool {
    let site = SiteName::new("oslo").expect("a valid name");
    let link = MemoryLink::new(site, Vec::new());
    link.await_memory(&VmName::new("till").expect("a valid name"), 7, Accel::Tcg);
    link.claim(line).is_ok()
}

fn word(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    }
}

async fn connect(own: SocketAddr, peer: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(own)?;
    socket.set_send_buffer_size(WIRE_BYTES)?;
    // The peer takes nothing from any other address.
    socket.bind(SocketAddr::new(own.ip(), 0))?;
    socket.connect(peer).await
}

fn listener(own: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(own)?;
    socket.set_reuseaddr(true)?;
    // Before it listens: this is what peers are told when they connect.
    socket.set_recv_buffer_size(WIRE_BYTES)?;
    socket.bind(own)?;
    socket.listen(STREAMS_WAITING)
}

fn socket(own: SocketAddr) -> io::Result<TcpSocket> {
    match own {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

async fn offer_on(mut wire: TcpStream, line: &str) -> io::Result<TcpStream> {
    let talk = async {
        say(&mut wire, line).await?;
        read_line(&mut wire).await
    };
    let answer = timeout(TALK_LIMIT, talk).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if answer != OK.as_bytes() {
        let words: String = String::from_utf8_lossy(&answer).chars().take(100).collect();
        return Err(io::Error::other(format!("the other server says: {words:?}")));
    }
    wire.set_nodelay(true)?;
    Ok(wire)
}

async fn say(wire: &mut TcpStream, line: &str) -> io::Result<()> {
    wire.write_all(format!("{line}\n").as_bytes()).await
}

/// A line, not a byte more: what follows is QEMU's.
async fn read_line(wire: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        match wire.read_u8().await? {
            b'\n' => return Ok(line),
            byte => line.push(byte),
        }
        if line.len() > MEMORY_OFFER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmName {
        VmName::new("till").expect("valid")
    }

    async fn free_address() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        listener.local_addr().expect("an address")
    }

    /// A listening end and one that dials it.
    async fn pair() -> (MemoryLink, MemoryLink, mpsc::Receiver<Arrival>) {
        let (a, b) = (free_address().await, free_address().await);
        let site = SiteName::new("dealer-1").expect("valid");
        let receiver = MemoryLink::new(site.clone(), vec![(b, a)]);
        let (out, arrivals) = mpsc::channel(1);
        receiver.listen(&out);
        // The channel stays open: the test holds it through the spawned task.
        (MemoryLink::new(site, vec![(a, b)]), receiver, arrivals)
    }

    async fn dialled(link: &MemoryLink, ticket: u64, accel: Accel) -> io::Result<TcpStream> {
        loop {
            match link.dial(&vm(), ticket, accel).await {
                Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => {
                    tokio::task::yield_now().await;
                }
                other => return other,
            }
        }
    }

    #[tokio::test]
    async fn a_ticket_lets_one_stream_through() {
        let (sender, receiver, mut arrivals) = pair().await;
        receiver.await_memory(&vm(), 7, Accel::Tcg);
        let mut wire = dialled(&sender, 7, Accel::Tcg).await.expect("accepted");
        wire.write_all(b"memory").await.expect("sent");
        let mut arrival = arrivals.recv().await.expect("arrived");
        assert_eq!((arrival.vm, arrival.ticket), (vm(), 7));
        let mut memory = [0; 6];
        arrival.wire.read_exact(&mut memory).await.expect("read");
        assert_eq!(&memory, b"memory");
        let err = dialled(&sender, 7, Accel::Tcg).await.expect_err("used up");
        assert!(err.to_string().contains("no QEMU waits"), "{err}");
    }

    #[tokio::test]
    async fn another_ticket_site_or_way_to_run_is_refused() {
        let (sender, receiver, _arrivals) = pair().await;
        receiver.await_memory(&vm(), 7, Accel::Kvm);
        let err = dialled(&sender, 8, Accel::Kvm).await.expect_err("another ticket");
        assert!(err.to_string().contains("no QEMU waits"), "{err}");
        let err = dialled(&sender, 7, Accel::Tcg).await.expect_err("another way");
        assert!(err.to_string().contains("in another way"), "{err}");
        let stranger = MemoryLink {
            site: SiteName::new("dealer-2").expect("valid"),
            ..MemoryLink::new(sender.site.clone(), sender.ends.to_vec())
        };
        let err = dialled(&stranger, 7, Accel::Kvm).await.expect_err("another site");
        assert!(err.to_string().contains("another site"), "{err}");
        dialled(&sender, 7, Accel::Kvm).await.expect("the right one still gets through");
    }

    #[tokio::test]
    async fn nonsense_and_endless_lines_are_hung_up_on() {
        let (_, receiver, mut arrivals) = pair().await;
        receiver.await_memory(&vm(), 7, Accel::Tcg);
        let at = receiver.ends[0].0;
        for words in [b"nonsense\n".to_vec(), vec![b'x'; 10_000], b"\n".to_vec()] {
            let mut wire = loop {
                match TcpStream::connect(at).await {
                    Ok(wire) => break wire,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            // It may hang up before it has read all.
            let _ = wire.write_all(&words).await;
            let mut answer = Vec::new();
            let _ = wire.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"ok"), "{words:?}");
        }
        assert!(arrivals.try_recv().is_err());
    }
}
