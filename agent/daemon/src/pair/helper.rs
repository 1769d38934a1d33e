// SPDX-License-Identifier: Apache-2.0
//! `agent.sock`: where drbd-helper asks what the kernel wants to know.
//!
//! One JSON line in, one out: `{"event":"fence-peer","resource":"VM-DISK"}` → `{"exit":7}`. A
//! `fence-peer` waits for the core as long as it takes; a helper that gives up is told to the
//! core when its end of the socket closes. A `before-resync-target` waits for its copy, 3 s at most;
//! everything else is answered 0 at once.

use super::keep::Keeper;
use super::socket;
use crate::vms::registry::Registry;
use agent_core::{HelperCode, Input};
use hypervisor_glue::replication::{Replication, Role};
use provisioning_protocol::ids::VmName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Most helpers at once: one for each volume, and room for the informing kind.
const HELPERS_MAX: usize = 512;
const LINE_BYTES_MAX: u64 = 4096;
const STATUS_LIMIT: Duration = Duration::from_secs(2);
const OWNER_RETRY: Duration = Duration::from_millis(100);

/// What a helper says first.
#[doc(hidden)]
#[derive(Debug, Deserialize)]
pub struct Ask {
    event: String,
    resource: String,
}

/// Helpers that wait for an answer.
#[derive(Clone)]
pub struct Helpers {
    registry: Arc<Registry>,
    replication: Arc<dyn Replication>,
    keeper: Keeper,
    inputs: mpsc::Sender<Input>,
    waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<HelperCode>>>>,
    next: Arc<AtomicU64>,
    split_brain: Arc<AtomicBool>,
}

impl Helpers {
    /// Knows whom to ask.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        replication: Arc<dyn Replication>,
        keeper: Keeper,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        Self {
            registry,
            replication,
            keeper,
            inputs,
            waiting: Arc::default(),
            next: Arc::new(AtomicU64::new(1)),
            split_brain: Arc::default(),
        }
    }

    /// Set when the kernel called a split brain; the monitor clears it once connected.
    #[must_use]
    pub fn split_brain(&self) -> Arc<AtomicBool> {
        self.split_brain.clone()
    }

    /// One side's data is given up: they do not differ any more.
    pub fn settled(&self) {
        self.split_brain.store(false, Ordering::Relaxed);
    }

    /// Gives the core's answer.
    pub fn answer(&self, id: u64, code: HelperCode) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match waiting {
            Some(waiting) => drop(waiting.send(code)),
            None => tracing::info!(id, ?code, "no helper waits for this answer"),
        }
    }

    /// Serves for ever.
    pub async fn serve(self, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(HELPERS_MAX));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let helpers = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = helpers.one(stream).await {
                            tracing::info!(%error, "helper connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "helper connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn one(&self, stream: UnixStream) -> io::Result<()> {
        let (line, mut read, mut write) = socket::first_line(stream, LINE_BYTES_MAX).await?;
        let ask: Ask = serde_json::from_str(&line)?;
        if ask.event != "fence-peer" {
            self.informed(&ask);
            if ask.event == "before-resync-target" {
                self.keeper.before_resync(&ask.resource).await;
            }
            return write.write_all(b"{\"exit\":0}\n").await;
        }
        let Some(vm) = self.owner(&ask.resource, &mut read).await else { return Ok(()) };
        self.fence(&ask.resource, vm, read, write).await
    }

    /// The VM of a resource. Just after a start of the agent it may not be known yet: the helper
    /// waits, for an "undecided" would not be asked again. `None` if the helper goes away.
    async fn owner<R>(&self, resource: &str, read: &mut R) -> Option<VmName>
    where
        R: tokio::io::AsyncRead + Unpin,
    {
        let mut end = [0u8; 1];
        loop {
            if let Some(vm) = self.registry.owner(resource) {
                return Some(vm);
            }
            tracing::debug!(resource, "fence-peer for a resource not known yet");
            if timeout(OWNER_RETRY, read.read(&mut end)).await.is_ok() {
                return None;
            }
        }
    }

    fn informed(&self, ask: &Ask) {
        tracing::info!(event = ask.event, resource = ask.resource, "kernel told of replication");
        if ask.event.contains("split-brain") {
            self.split_brain.store(true, Ordering::Relaxed);
        }
    }

    async fn fence<R, W>(
        &self,
        resource: &str,
        vm: VmName,
        mut read: R,
        mut write: W,
    ) -> io::Result<()>
    where
        R: tokio::io::AsyncRead + Unpin,
        W: tokio::io::AsyncWrite + Unpin,
    {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let primary = self.is_primary(resource).await;
        let (sender, mut answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        tracing::info!(id, resource, primary, "kernel asks who may go on");
        drop(self.inputs.send(Input::HelperAsked { id, vm, primary }).await);
        let mut end = [0u8; 1];
        tokio::select! {
            code = &mut answer => {
                if let Ok(code) = code {
                    tracing::info!(id, resource, ?code, "kernel answered");
                    let line = format!("{{\"exit\":{}}}\n", code.exit_code());
                    drop(write.write_all(line.as_bytes()).await);
                }
            }
            _ = read.read(&mut end) => {}
        }
        // Answered or not: gone means that its end of the socket is closed.
        while let Ok(1..) = read.read(&mut end).await {}
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(self.inputs.send(Input::HelperGone { id }).await);
        Ok(())
    }

    async fn is_primary(&self, resource: &str) -> bool {
        let Ok(Ok(statuses)) = timeout(STATUS_LIMIT, self.replication.status()).await else {
            // A secondary is asked only while it is promoted, under a grant that answers both.
            return true;
        };
        let found = statuses.iter().find(|status| status.resource == resource);
        found.is_some_and(|status| status.role == Role::Primary)
    }
}
