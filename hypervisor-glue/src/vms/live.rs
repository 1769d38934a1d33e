// SPDX-License-Identifier: Apache-2.0
//! Moving a running VM: QEMU streams the memory through a Unix socket, and this server carries it
//! to and from a connection to the other one. QEMU itself may open no other kind of socket.
//!
//! The receiving QEMU stands on placeholders like any prepared one, so no volume has to be primary
//! on both servers: the volumes change hands when the memory is over.

use super::qmp::Qmp;
use super::systemd::SystemdVms;
use super::{RunningVm, VmLaunch, VmState, Vms};
use crate::error::{GlueError, Result};
use provisioning_protocol::ids::VmName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// A guest that changes its memory faster than it can be sent does not get longer than this.
const STREAM_LIMIT: Duration = Duration::from_secs(600);
/// For the last of the memory, by QEMU's estimate; a sixth of what it allows itself, as the volumes have to
/// change hands after it.
const DOWNTIME_MS: u32 = 50;
/// After so many passes over the memory it is doubled for a guest that does not come to an end ...
const PASSES: u64 = 3;
/// ... so often at most.
const DOUBLED_MAX: u32 = 4;
/// QEMU connects at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What QEMU needs to end a stream one way or the other.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// A guest stands still from the end of its stream on: then QEMU is asked often ...
const POLL: Duration = Duration::from_millis(25);
/// ... and before, when each question takes time from the guest, seldom.
const CALM_POLL: Duration = Duration::from_millis(200);
/// With so much left, in bytes, a stream may end before the next look.
const NEARLY: u64 = 8 << 20;
/// A stream takes all the processor it can get; its guest goes before it.
const GUEST_FIRST: u8 = 10;
const VCPUS_MAX: usize = 512;
/// Memory is carried in pieces of so many bytes; what waits in one when the guest is stopped prolongs its pause.
const CARRY_BYTES: usize = 64 << 10;
const WORDS_BYTES: usize = 4 << 10;
/// QEMU's event for each step of a stream.
const STEP: &str = "MIGRATION";

/// How a stream stands, in QEMU's words (`query-migrate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    UnderWay,
    Completed,
    Ended,
}

fn stream_of(answer: &Value) -> Stream {
    match answer.get("status").and_then(Value::as_str) {
        Some("completed") => Stream::Completed,
        Some("failed" | "cancelled" | "none") | None => Stream::Ended,
        Some(_) => Stream::UnderWay,
    }
}

/// Whether the guest may be stopped for the rest soon, or is.
fn nearly_over(answer: &Value) -> bool {
    let left = answer.pointer("/ram/remaining").and_then(Value::as_u64);
    left.is_some_and(|left| left < NEARLY)
}

/// How long the processors may stand for the rest, milliseconds. A guest that writes much is stopped for
/// longer, once, and not slowed down until it fits (QEMU's auto-converge): customers would wait for
/// seconds over and over again.
fn downtime_ms(answer: &Value) -> u32 {
    let passes = answer.pointer("/ram/dirty-sync-count").and_then(Value::as_u64).unwrap_or(0);
    let doubled = u32::try_from(passes / PASSES).unwrap_or(u32::MAX);
    DOWNTIME_MS << doubled.min(DOUBLED_MAX)
}

/// Conversations with QEMUs that have all of their memory, kept for the moment they may go on: a guest
/// stands still by then.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<BTreeMap<VmName, Arrival>>);

/// A QEMU that has all of its memory.
struct Arrival {
    ticket: u64,
    pid: u32,
    qmp: Qmp,
}

impl Arrivals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<VmName, Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a conversation: somebody else wants to talk.
    pub fn forget(&self, vm: &VmName) {
        self.all().remove(vm);
    }

    fn take(&self, vm: &VmName, ticket: u64) -> Option<Arrival> {
        self.all().remove(vm).filter(|arrival| arrival.ticket == ticket)
    }
}

/// The threads of a guest's processors (`query-cpus-fast`).
fn vcpus(answer: &Value) -> Vec<u32> {
    let list = answer.as_array().into_iter().flatten().take(VCPUS_MAX);
    let id = |cpu: &Value| cpu.get("thread-id").and_then(Value::as_u64);
    list.filter_map(id).filter_map(|id| u32::try_from(id).ok()).collect()
}

/// Waits until QEMU knows that it has all of its memory.
async fn whole(qmp: &mut Qmp, vm: &VmName) -> Result<()> {
    let until = Instant::now() + SETTLE_LIMIT;
    while stream_of(&qmp.execute("query-migrate", None).await?) != Stream::Completed {
        if Instant::now() >= until {
            let reason = "the memory that was received is not whole";
            return Err(GlueError::refused(format!("go on with VM {vm}"), reason));
        }
        sleep(POLL).await;
    }
    Ok(())
}

/// Both ends speak of errors on the way back, so that "completed" means that the other one has all. QEMU
/// tells of each step.
async fn agree(qmp: &mut Qmp) -> Result<()> {
    let on = |name: &str| json!({ "capability": name, "state": true });
    let list = json!({ "capabilities": [on("return-path"), on("events")] });
    qmp.execute("migrate-set-capabilities", Some(list)).await.map(drop)
}

async fn allow(qmp: &mut Qmp, downtime_ms: u32) -> Result<()> {
    let limit = json!({ "downtime-limit": downtime_ms });
    qmp.execute("migrate-set-parameters", Some(limit)).await.map(drop)
}

/// The switches of the LAN still send to the other server.
fn announce() -> (&'static str, Value) {
    ("announce-self", json!({ "initial": 50, "max": 550, "rounds": 5, "step": 100 }))
}

fn uri(socket: &Path) -> Value {
    json!({ "uri": format!("unix:{}", socket.display()) })
}

impl SystemdVms {
    /// Has a loaded QEMU listen for memory.
    pub(super) async fn open_to_memory(&self, vm: &VmName) -> Result<()> {
        let mut qmp = self.qmp(vm).await?;
        agree(&mut qmp).await?;
        qmp.execute("migrate-incoming", Some(uri(&self.socket(vm, "in.sock")))).await.map(drop)
    }

    /// Carries memory from the other server to a QEMU that listens.
    pub(super) async fn carry_in(&self, vm: &VmName, mut wire: TcpStream) -> Result<()> {
        let socket = self.socket(vm, "in.sock");
        let lost = |err| GlueError::file("carry memory to", &socket, err);
        let mut qemu = UnixStream::connect(&socket).await.map_err(lost)?;
        carry(&mut wire, &mut qemu).await.map_err(lost)
    }

    /// The memory is over: what can be asked before the volumes are here is asked now.
    pub(super) async fn keep_ready(&self, vm: &VmName, ticket: u64) -> Result<()> {
        let arrival = self.arrival(vm, ticket).await?;
        self.arrived.all().insert(vm.clone(), arrival);
        Ok(())
    }

    async fn arrival(&self, vm: &VmName, ticket: u64) -> Result<Arrival> {
        let mut qmp = self.qmp(vm).await?;
        whole(&mut qmp, vm).await?;
        let Some(pid) = self.main_pid(vm).await? else {
            return Err(GlueError::Missing { what: format!("QEMU of VM {vm}") });
        };
        Ok(Arrival { ticket, pid, qmp })
    }

    /// Lets a QEMU that has received its memory under this ticket go on.
    pub(super) async fn go_on(&self, launch: &VmLaunch, ticket: u64) -> Result<RunningVm> {
        let name = &launch.name;
        let Arrival { pid, mut qmp, .. } = match self.arrived.take(name, ticket) {
            Some(arrival) => arrival,
            None => self.arrival(name, ticket).await?,
        };
        let start = Instant::now();
        self.release(&mut qmp, launch, vec![announce()]).await?;
        let released_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(vm = %name, released_ms, "a VM's guest goes on");
        Ok(RunningVm { name: name.clone(), pid })
    }

    /// Sends the memory away; `true` if it is over and QEMU is gone.
    pub(super) async fn send_memory(
        &self,
        vm: &VmName,
        wire: TcpStream,
        off: watch::Receiver<bool>,
    ) -> Result<bool> {
        // While the guest stands still systemd is not asked for it.
        let qemu = self.hold(vm).await?;
        let vcpus = vcpus(&self.qmp(vm).await?.execute("query-cpus-fast", None).await?);
        let pump = match self.begin(vm, wire).await {
            Ok(pump) => pump,
            Err(err) => {
                self.call_off(vm).await?;
                return Err(err);
            }
        };
        let prefer = |steps| qemu.iter().for_each(|qemu| qemu.prefer(&vcpus, steps));
        prefer(GUEST_FIRST);
        let whole = self.follow(vm, off).await;
        if !matches!(whole, Ok(true)) {
            prefer(0);
            // First the stream, so that QEMU can come to an end of it.
            pump.abort();
            self.call_off(vm).await?;
            return whole;
        }
        // The guest stands still until the other server has its volumes: nothing else is done here.
        match qemu {
            Some(qemu) => qemu.end(vm).await?,
            None => self.end(vm).await?,
        }
        pump.abort();
        Ok(true)
    }

    async fn begin(&self, vm: &VmName, mut wire: TcpStream) -> Result<tokio::task::JoinHandle<()>> {
        let socket = self.socket(vm, "out.sock");
        let listener = private_listener(&socket)?;
        let mut qmp = self.qmp(vm).await?;
        agree(&mut qmp).await?;
        allow(&mut qmp, DOWNTIME_MS).await?;
        qmp.execute("migrate", Some(uri(&socket))).await?;
        let late =
            |_| GlueError::Timeout { what: format!("the memory of VM {vm}"), limit: CONNECT_LIMIT };
        let (mut qemu, _) = timeout(CONNECT_LIMIT, listener.accept())
            .await
            .map_err(late)?
            .map_err(|err| GlueError::file("listen on", &socket, err))?;
        Ok(tokio::spawn(async move {
            if let Err(error) = carry(&mut qemu, &mut wire).await {
                tracing::info!(%error, "the stream of a VM's memory has ended");
            }
        }))
    }

    /// Until the stream is over (`true`), or broken, called off or too long.
    async fn follow(&self, vm: &VmName, mut off: watch::Receiver<bool>) -> Result<bool> {
        let until = Instant::now() + STREAM_LIMIT;
        let mut allowed_ms = DOWNTIME_MS;
        let mut kept = None;
        loop {
            if *off.borrow_and_update() {
                return Ok(false);
            }
            let mut qmp = match kept.take() {
                Some(qmp) => qmp,
                None => self.qmp(vm).await?,
            };
            let answer = qmp.execute("query-migrate", None).await?;
            if downtime_ms(&answer) > allowed_ms {
                allowed_ms = downtime_ms(&answer);
                allow(&mut qmp, allowed_ms).await?;
            }
            match stream_of(&answer) {
                Stream::Completed => {
                    let ms = |name: &str| answer.get(name).and_then(Value::as_u64);
                    let (stopped_ms, all_ms) = (ms("downtime"), ms("total-time"));
                    tracing::info!(%vm, stopped_ms, allowed_ms, all_ms, "a VM's memory is over");
                    return Ok(true);
                }
                Stream::Ended => return Ok(false),
                Stream::UnderWay if Instant::now() >= until => return Ok(false),
                Stream::UnderWay => {}
            }
            let looked = async {
                if nearly_over(&answer) {
                    // The guest stands still soon: QEMU's word is waited for.
                    qmp.event(STEP, CALM_POLL).await
                } else {
                    // QEMU talks to one at a time.
                    drop(qmp);
                    sleep(CALM_POLL).await;
                    Ok(None)
                }
            };
            tokio::select! {
                looked = looked => kept = looked?,
                // A dropped sender is an agent on its way out: nobody would vouch for the memory.
                changed = off.changed() => if changed.is_err() { return Ok(false) },
            }
        }
    }

    /// Ends a stream, and has the VM go on here. One that cannot be brought to it within the limit,
    /// as with a frozen disk, is stopped as a process: it must not go on by itself later.
    async fn call_off(&self, vm: &VmName) -> Result<()> {
        match timeout(SETTLE_LIMIT, self.cancel(vm)).await {
            Ok(Ok(())) => Ok(()),
            _ if self.main_pid(vm).await?.is_none() => Ok(()),
            _ => self.halt(vm).await,
        }
    }

    async fn cancel(&self, vm: &VmName) -> Result<()> {
        let mut qmp = self.qmp(vm).await?;
        qmp.execute("migrate_cancel", None).await?;
        loop {
            let answer = qmp.execute("query-migrate", None).await?;
            if stream_of(&answer) != Stream::UnderWay {
                break;
            }
            sleep(POLL).await;
        }
        drop(qmp);
        match self.state(vm).await? {
            // It was through, but nobody has been told: what is over there stays unused.
            VmState::Stopped(_) => self.qmp(vm).await?.execute("cont", None).await.map(drop),
            _ => Ok(()),
        }
    }
}

/// Until both directions have ended: memory one way, a few words the other.
async fn carry(
    from: &mut (impl AsyncRead + AsyncWrite + Unpin),
    to: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    copy_bidirectional_with_sizes(from, to, CARRY_BYTES, WORDS_BYTES).await.map(drop)
}

/// A socket in a VM's own folder that only its QEMU (and root) may connect to.
fn private_listener(socket: &Path) -> Result<UnixListener> {
    let failed = |err| GlueError::file("listen on", socket, err);
    match std::fs::remove_file(socket) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(failed(err)),
        _ => {}
    }
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder).map_err(failed)?);
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    chown(socket, Some(owner), None).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stream_that_is_over_is_whole() {
        let cases = [
            (json!({}), Stream::Ended),
            (json!({ "status": "setup" }), Stream::UnderWay),
            (json!({ "status": "active", "ram": { "remaining": 0 } }), Stream::UnderWay),
            (json!({ "status": "device" }), Stream::UnderWay),
            (json!({ "status": "cancelling" }), Stream::UnderWay),
            (json!({ "status": "completed" }), Stream::Completed),
            (json!({ "status": "failed" }), Stream::Ended),
            (json!({ "status": "cancelled" }), Stream::Ended),
            (json!({ "status": 7 }), Stream::Ended),
        ];
        for (answer, expected) in cases {
            assert_eq!(stream_of(&answer), expected, "{answer}");
        }
    }

    #[test]
    fn a_guest_that_does_not_come_to_an_end_may_be_stopped_for_longer_within_limits() {
        let limit = |passes: u64| downtime_ms(&json!({ "ram": { "dirty-sync-count": passes } }));
        let passes = [0, 1, 2, 3, 5, 6, 8, 9, 900];
        assert_eq!(passes.map(limit), [50, 50, 50, 100, 100, 200, 200, 400, 800]);
        assert_eq!(limit(u64::MAX), 800);
        assert_eq!(downtime_ms(&json!({ "status": "setup" })), 50);
    }

    #[test]
    fn a_guests_processors_are_known_by_their_threads() {
        let answer = json!([{ "thread-id": 41, "cpu-index": 0 }, { "thread-id": -1 }, {}, 7]);
        assert_eq!(vcpus(&answer), [41]);
        assert!(vcpus(&json!({ "thread-id": 41 })).is_empty());
    }

    #[test]
    fn a_stream_is_watched_closely_when_little_is_left() {
        let close = |left: u64| nearly_over(&json!({ "ram": { "remaining": left } }));
        assert!(close(0) && close(1 << 20) && !close(100 << 20));
        assert!(!nearly_over(&json!({ "status": "setup" })));
    }

    #[tokio::test]
    async fn a_kept_conversation_is_for_its_own_ticket_and_ends_when_somebody_else_talks() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepted");
                let words = b"{\"QMP\":{}}\n{\"return\":{},\"id\":1}\n";
                tokio::io::AsyncWriteExt::write_all(&mut stream, words).await.expect("greeted");
                tokio::spawn(async move {
                    let mut stream = stream;
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        });
        let (vm, kept) = (VmName::new("till").expect("valid"), Arrivals::default());
        let talk = || Qmp::connect(&socket, CONNECT_LIMIT);
        let keep = |qmp| drop(kept.all().insert(vm.clone(), Arrival { ticket: 7, pid: 1, qmp }));
        keep(talk().await.expect("connected"));
        assert!(kept.take(&vm, 8).is_none(), "another stream's");
        assert!(kept.take(&vm, 7).is_none(), "it is not kept for a second question");
        keep(talk().await.expect("connected"));
        kept.forget(&vm);
        assert!(kept.take(&vm, 7).is_none());
        keep(talk().await.expect("connected"));
        assert!(kept.take(&vm, 7).is_some());
    }

    #[tokio::test]
    async fn a_leftover_socket_is_replaced_and_strangers_stay_out() {
        let dir = tempfile::tempdir().expect("temp dir");
        let socket = dir.path().join("out.sock");
        drop(private_listener(&socket).expect("bound"));
        let listener = private_listener(&socket).expect("bound again");
        let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(listener);
    }
}
