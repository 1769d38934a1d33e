// SPDX-License-Identifier: Apache-2.0
//! The watchdog process: a loop that pets or holds, and a socket for the agent.

use crate::device::{Device, Paths};
use crate::keeper::{Action, Keeper, State};
use crate::message::{LINE_BYTES_MAX, Reply, Request};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(500);
const CONNECTIONS_MAX: usize = 8;
/// A connection that says nothing for this long is closed; the lease does not depend on it.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Without a device, how many ticks until it is looked for again.
const LOOK_AGAIN_TICKS: u32 = 20;

/// Milliseconds since boot, suspended time included.
#[must_use]
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The watchdog process.
#[derive(Clone)]
pub struct Server {
    paths: Paths,
    inner: Arc<Mutex<Inner>>,
    connections: Arc<AtomicUsize>,
}

struct Inner {
    keeper: Keeper,
    device: Option<Device>,
    /// Why there is no device.
    missing: String,
    ticks: u32,
}

impl Server {
    /// Opens the device and takes up the lease an earlier process left.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        let (device, missing) = match Device::open(&paths) {
            Ok(device) => (Some(device), String::new()),
            Err(reason) => (None, reason),
        };
        let timeout_ms = device.as_ref().map_or(0, |device| device.timeout_ms);
        let state = load(&paths);
        let inner = Inner { keeper: Keeper::new(state, timeout_ms), device, missing, ticks: 0 };
        Self { paths, inner: Arc::new(Mutex::new(inner)), connections: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Listens in a thread of its own.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn listen(&self) -> std::io::Result<()> {
        if let Some(dir) = self.paths.socket.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let _ = std::fs::remove_file(&self.paths.socket);
        let listener = UnixListener::bind(&self.paths.socket)?;
        std::fs::set_permissions(&self.paths.socket, std::fs::Permissions::from_mode(0o600))?;
        let server = self.clone();
        std::thread::Builder::new()
            .name("listen".into())
            .spawn(move || server.accept(&listener))?;
        Ok(())
    }

    fn accept(&self, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            if self.connections.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
                continue;
            }
            self.connections.fetch_add(1, Ordering::SeqCst);
            let server = self.clone();
            let name = std::thread::Builder::new().name("client".into());
            let thread = name.spawn(move || {
                // A client that goes away is no error of ours.
                let _ = server.serve(&stream);
                server.connections.fetch_sub(1, Ordering::SeqCst);
            });
            if thread.is_err() {
                self.connections.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn serve(&self, stream: &UnixStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(Duration::from_secs(1)))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            let n = (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line)?;
            if n == 0 || !line.ends_with('\n') {
                return Ok(());
            }
            let reply = match serde_json::from_str::<Request>(&line) {
                Ok(request) => self.answer(request),
                Err(err) => self.reply(&format!("not understood: {err}")),
            };
            let mut text = serde_json::to_string(&reply).map_err(std::io::Error::other)?;
            text.push('\n');
            (&*stream).write_all(text.as_bytes())?;
        }
    }

    /// Carries out one request.
    #[must_use]
    pub fn answer(&self, request: Request) -> Reply {
        let now = now_ms();
        let done = {
            let mut inner = self.inner();
            match request {
                Request::Arm { .. } if inner.device.is_none() => Err(inner.missing.clone()),
                Request::Arm { lease_ms } => inner.keeper.arm(now, lease_ms),
                Request::Renew => inner.keeper.renew(now),
                Request::Disarm => inner.keeper.disarm(now),
                Request::Status => Ok(()),
            }
        };
        let saved = self.save();
        self.reply(&done.err().or(saved.err()).unwrap_or_default())
    }

    fn reply(&self, reason: &str) -> Reply {
        let inner = self.inner();
        let (armed, lease_left_ms) = match inner.keeper.state() {
            State::Armed { until_ms, .. } => (true, until_ms.saturating_sub(now_ms())),
            State::Expired { .. } => (true, 0),
            State::Idle => (false, 0),
        };
        let usable = inner.device.is_some();
        Reply {
            armed: armed && usable,
            reason: if reason.is_empty() && !usable {
                inner.missing.clone()
            } else {
                reason.to_owned()
            },
            device: if usable { self.paths.device.display().to_string() } else { String::new() },
            timeout_ms: inner.device.as_ref().map_or(0, |device| device.timeout_ms),
            lease_left_ms,
        }
    }

    /// Pets for ever, or until it must not. Returns only by a reboot, or in tests.
    pub fn run(&self, stop: &std::sync::atomic::AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            self.tick();
            std::thread::sleep(TICK);
        }
    }

    /// One turn of the loop.
    pub fn tick(&self) {
        let mut inner = self.inner();
        inner.ticks = inner.ticks.wrapping_add(1);
        if inner.device.is_none() && inner.ticks.is_multiple_of(LOOK_AGAIN_TICKS) {
            self.look_again(&mut inner);
        }
        match inner.keeper.step(now_ms()) {
            Action::Pet => {
                let petted = inner.device.as_mut().map(Device::pet);
                if let Some(Err(err)) = petted {
                    eprintln!("The watchdog cannot be petted: {err}");
                }
            }
            Action::Hold => eprintln!("The agent's lease ran out: the watchdog is left to fire"),
            Action::Reboot => {
                eprintln!("The watchdog did not fire: rebooting by sysrq");
                let _ = std::fs::write(&self.paths.sysrq, "b");
            }
        }
    }

    fn look_again(&self, inner: &mut Inner) {
        if let Ok(device) = Device::open(&self.paths) {
            inner.keeper = Keeper::new(inner.keeper.state(), device.timeout_ms);
            inner.missing = String::new();
            inner.device = Some(device);
        }
    }

    /// Stops the hardware if nobody depends on it (an orderly stop of an idle server).
    pub fn close(&self) {
        let mut inner = self.inner();
        if inner.keeper.state() == State::Idle
            && let Some(device) = inner.device.take()
        {
            let _ = device.close();
        }
    }

    fn save(&self) -> Result<(), String> {
        let text = match self.inner().keeper.state() {
            State::Idle => "idle".to_owned(),
            State::Armed { lease_ms, until_ms } => format!("armed {lease_ms} {until_ms}"),
            State::Expired { at_ms } => format!("expired {at_ms}"),
        };
        let new = self.paths.state.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.paths.state))
            .map_err(|err| format!("the lease cannot be kept: {err}"))
    }
}

fn load(paths: &Paths) -> State {
    let text = std::fs::read_to_string(&paths.state).unwrap_or_default();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().ok();
    match words.as_slice() {
        ["armed", lease, until] => match (number(lease), number(until)) {
            (Some(lease_ms), Some(until_ms)) => State::Armed { lease_ms, until_ms },
            _ => State::Idle,
        },
        ["expired", at] => number(at).map_or(State::Idle, |at_ms| State::Expired { at_ms }),
        _ => State::Idle,
    }
}
