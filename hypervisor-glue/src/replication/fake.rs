// SPDX-License-Identifier: Apache-2.0
//! Replication in memory, for tests of what uses it. Each server has its own fake; a test joins
//! two with [`FakeReplication::join`] or sets states by hand.

use super::{
    AdoptOrder, DiskState, HelpersGone, LinkState, MetadataOutcome, ReplicaEvent, ReplicaSpec,
    ReplicaStatus, Replication, Role,
};
use crate::error::{GlueError, Result};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::mpsc;

/// [`Replication`] in memory.
#[derive(Clone, Default)]
pub struct FakeReplication {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    metadata: BTreeSet<PathBuf>,
    /// Volumes that are down, and how they will be when attached again.
    adopted: BTreeSet<PathBuf>,
    volumes: BTreeMap<u32, ReplicaStatus>,
    sizes: BTreeMap<u32, u64>,
    calls: Vec<String>,
    listeners: Vec<mpsc::Sender<ReplicaEvent>>,
    peer: Option<FakeReplication>,
    verify_end: Option<LinkState>,
    diverged: bool,
}

impl FakeReplication {
    /// Makes two fakes each other's peer: connecting on both sides connects.
    pub fn join(&self, peer: &Self) {
        self.state().peer = Some(peer.clone());
        peer.state().peer = Some(self.clone());
    }

    /// Cuts or heals the link: up volumes become `Connecting`; a primary freezes.
    pub fn cut(&self) {
        let numbers: Vec<u32> = self.state().volumes.keys().copied().collect();
        for number in numbers {
            self.change(number, |status| {
                status.link = LinkState::Connecting;
                status.peer_role = Role::Unknown;
                status.peer_disk = DiskState::Unknown;
                status.frozen = status.role == Role::Primary;
            });
        }
    }

    /// Both sides were written apart: no connection lasts before one of them is started over.
    pub fn diverge(&self) {
        self.set_diverged(true);
    }

    fn set_diverged(&self, diverged: bool) {
        self.state().diverged = diverged;
        let peer = self.state().peer.clone();
        if let Some(peer) = peer {
            peer.state().diverged = diverged;
        }
    }

    /// Changes a volume's status and tells listeners.
    pub fn change(&self, number: u32, change: impl FnOnce(&mut ReplicaStatus)) {
        let mut state = self.state();
        let Some(status) = state.volumes.get_mut(&number) else { return };
        change(status);
        let event =
            ReplicaEvent::Link { resource: status.resource.clone(), link: status.link.clone() };
        state.listeners.retain(|listener| listener.try_send(event.clone()).is_ok());
    }

    /// How the connection is after the next comparisons; connected if not said.
    pub fn verify_ends_as(&self, link: LinkState) {
        self.state().verify_end = Some(link);
    }

    /// Operations so far, such as `primary 0`.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the fake's state")
    }

    fn called(&self, call: String) {
        self.state().calls.push(call);
    }

    fn get(&self, number: u32) -> Result<ReplicaStatus> {
        let missing = || GlueError::Missing { what: format!("volume {number}") };
        self.state().volumes.get(&number).cloned().ok_or_else(missing)
    }

    fn peer_view(&self, number: u32) -> Option<ReplicaStatus> {
        let peer = self.state().peer.clone()?;
        peer.get(number).ok().filter(|view| view.link != LinkState::StandAlone)
    }

    fn both(&self, number: u32, change: impl Fn(&mut ReplicaStatus)) {
        self.change(number, &change);
        let peer = self.state().peer.clone();
        if let Some(peer) = peer {
            peer.change(number, &change);
        }
    }
}

#[async_trait]
impl Replication for FakeReplication {
    async fn load(&self) -> Result<()> {
        Ok(())
    }

    async fn create_metadata(&self, spec: &ReplicaSpec) -> Result<MetadataOutcome> {
        self.called(format!("create_metadata {}", spec.number));
        let new = self.state().metadata.insert(spec.backing.clone());
        Ok(if new { MetadataOutcome::Created } else { MetadataOutcome::Existed })
    }

    async fn attach(&self, spec: &ReplicaSpec) -> Result<()> {
        self.called(format!("attach {}", spec.number));
        let mut state = self.state();
        if !state.metadata.contains(&spec.backing) {
            return Err(GlueError::Missing { what: format!("metadata of {}", spec.resource()) });
        }
        state.sizes.insert(spec.number, spec.guest_bytes);
        let adopted = state.adopted.contains(&spec.backing);
        state.volumes.entry(spec.number).or_insert_with(|| ReplicaStatus {
            resource: spec.resource(),
            number: spec.number,
            role: Role::Secondary,
            peer_role: Role::Unknown,
            disk: if adopted { DiskState::Consistent } else { DiskState::Inconsistent },
            peer_disk: DiskState::Unknown,
            link: LinkState::StandAlone,
            frozen: false,
            out_of_sync_bytes: 0,
            resync_percent: None,
        });
        Ok(())
    }

    async fn connect(&self, spec: &ReplicaSpec) -> Result<()> {
        self.called(format!("connect {}", spec.number));
        let own = self.get(spec.number)?;
        let Some(peer) = self.peer_view(spec.number) else {
            self.change(spec.number, |status| status.link = LinkState::Connecting);
            return Ok(());
        };
        if self.state().diverged {
            self.both(spec.number, |status| status.link = LinkState::StandAlone);
            return Ok(());
        }
        let join = |to: &FakeReplication, seen: &ReplicaStatus| {
            to.change(spec.number, |status| {
                status.link = LinkState::Connected;
                status.peer_role = seen.role;
                status.peer_disk = seen.disk;
                status.frozen = false;
            });
        };
        join(self, &peer);
        let other = self.state().peer.clone();
        if let Some(other) = other {
            join(&other, &own);
        }
        Ok(())
    }

    async fn disconnect(&self, spec: &ReplicaSpec) -> Result<()> {
        self.called(format!("disconnect {}", spec.number));
        self.change(spec.number, |status| {
            if status.link.is_up() && status.role == Role::Secondary {
                status.disk = DiskState::Outdated;
            }
            status.link = LinkState::StandAlone;
        });
        Ok(())
    }

    async fn skip_first_sync(&self, spec: &ReplicaSpec) -> Result<()> {
        self.called(format!("skip_first_sync {}", spec.number));
        let status = self.get(spec.number)?;
        let new = status.disk == DiskState::Inconsistent
            && status.peer_disk == DiskState::Inconsistent
            && status.link == LinkState::Connected;
        if !new {
            return Err(GlueError::refused("skip the first sync", format!("{status:?}")));
        }
        self.both(spec.number, |status| {
            status.disk = DiskState::UpToDate;
            status.peer_disk = DiskState::UpToDate;
        });
        Ok(())
    }

    async fn primary(&self, number: u32, _limit: Duration) -> Result<()> {
        self.called(format!("primary {number}"));
        let status = self.get(number)?;
        if !matches!(status.disk, DiskState::UpToDate | DiskState::Consistent) {
            return Err(GlueError::refused("make primary", format!("{status:?}")));
        }
        if status.link.is_up() && status.peer_role == Role::Primary {
            return Err(GlueError::refused("make primary", "the peer is primary"));
        }
        self.change(number, |status| {
            status.role = Role::Primary;
            status.disk = DiskState::UpToDate;
        });
        let peer = self.state().peer.clone().filter(|_| status.link.is_up());
        if let Some(peer) = peer {
            peer.change(number, |status| status.peer_role = Role::Primary);
        }
        Ok(())
    }

    async fn secondary(&self, number: u32) -> Result<()> {
        self.called(format!("secondary {number}"));
        let status = self.get(number)?;
        self.change(number, |status| status.role = Role::Secondary);
        let peer = self.state().peer.clone().filter(|_| status.link.is_up());
        if let Some(peer) = peer {
            peer.change(number, |status| status.peer_role = Role::Secondary);
        }
        Ok(())
    }

    async fn outdate(&self, number: u32) -> Result<()> {
        self.called(format!("outdate {number}"));
        self.get(number)?;
        self.change(number, |status| status.disk = DiskState::Outdated);
        Ok(())
    }

    async fn detach_forced(&self, number: u32) -> Result<()> {
        self.called(format!("detach_forced {number}"));
        self.change(number, |status| status.disk = DiskState::Diskless);
        Ok(())
    }

    async fn verify(&self, number: u32) -> Result<()> {
        self.called(format!("verify {number}"));
        let end = self.state().verify_end.clone();
        self.change(number, |status| status.link = end.unwrap_or(LinkState::Connected));
        Ok(())
    }

    async fn resume_io(&self, number: u32) -> Result<()> {
        self.called(format!("resume_io {number}"));
        self.change(number, |status| status.frozen = false);
        Ok(())
    }

    async fn down(&self, helpers: HelpersGone) -> Result<()> {
        self.called(format!("down {}", helpers.resource));
        self.state().volumes.retain(|_, status| status.resource != helpers.resource);
        Ok(())
    }

    async fn helpers_gone(&self, resource: &str, _limit: Duration) -> Result<HelpersGone> {
        Ok(HelpersGone { resource: resource.to_owned() })
    }

    async fn start_over(&self, spec: &ReplicaSpec) -> Result<()> {
        self.called(format!("start_over {}", spec.number));
        if self.get(spec.number).is_ok() {
            return Err(GlueError::refused("start over", "it is up"));
        }
        self.state().adopted.remove(&spec.backing);
        self.set_diverged(false);
        Ok(())
    }

    async fn adopt(&self, order: AdoptOrder) -> Result<()> {
        self.called(format!("adopt {}", order.spec.number));
        if self.get(order.spec.number).is_ok() {
            return Err(GlueError::refused("adopt", "it is up"));
        }
        self.state().adopted.insert(order.spec.backing.clone());
        Ok(())
    }

    async fn status(&self) -> Result<Vec<ReplicaStatus>> {
        Ok(self.state().volumes.values().cloned().collect())
    }

    async fn device_bytes(&self, number: u32) -> Result<u64> {
        let missing = || GlueError::Missing { what: format!("volume {number}") };
        self.state().sizes.get(&number).copied().ok_or_else(missing)
    }

    async fn events(&self) -> Result<mpsc::Receiver<ReplicaEvent>> {
        let (sender, receiver) = mpsc::channel(1024);
        // The queue is empty: this cannot fail.
        let _ = sender.try_send(ReplicaEvent::Restarted);
        self.state().listeners.push(sender);
        Ok(receiver)
    }
}
