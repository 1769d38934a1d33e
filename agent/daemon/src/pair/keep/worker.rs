// SPDX-License-Identifier: Apache-2.0
//! Takes copies, drops them, and says what is kept.

use super::KeeperParts;
use super::held::Held;
use super::rules::{self, Verdict};
use crate::hq::client::error_chain;
use crate::identity::clock;
use crate::past::utc;
use crate::status::Concern;
use crate::vms::fill::Fill;
use crate::vms::registry::VmEntry;
use agent_core::Status as CoreStatus;
use hypervisor_glue::replication::{LinkState, ReplicaSpec, ReplicaStatus};
use hypervisor_glue::volumes::{Keep, KeepCause, KeptVolume, RemovalOrder, VolumeId};
use provisioning_protocol::ids::{DiskName, VmName};
use provisioning_protocol::peer::PeerState;
use provisioning_protocol::status::OlderData;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A server that has lost its vote will be overwritten: its volumes get their copies sooner.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// After a failure of LVM.
const RETRY: Duration = Duration::from_secs(60);
/// The pool's usage is not asked for more often. A resync writes 1.4 GB in that time at most.
const USAGE_FOR: Duration = Duration::from_secs(15);

pub(super) struct Worker {
    pub(super) parts: KeeperParts,
    kept: Option<Vec<KeptVolume>>,
    put_back: Arc<Mutex<BTreeSet<VmName>>>,
    /// Since when each volume has not been connected.
    parted: BTreeMap<u32, Instant>,
    /// Volumes that nothing was written to since their copy was taken.
    fresh: BTreeSet<u32>,
    /// VMs whose volumes were being overwritten while copies were kept.
    overwritten: BTreeSet<VmName>,
    /// Volumes of which it was said that no copy is kept.
    told: BTreeSet<u32>,
    /// VMs of which it was said that the resync broke off.
    broken: BTreeSet<VmName>,
    held: Held,
    fill: Option<(Instant, Fill)>,
    not_before: Option<Instant>,
}

impl Worker {
    pub fn new(parts: KeeperParts, put_back: Arc<Mutex<BTreeSet<VmName>>>) -> Self {
        Self {
            held: Held::read(parts.file.clone()),
            parts,
            kept: None,
            put_back,
            parted: BTreeMap::new(),
            fresh: BTreeSet::new(),
            overwritten: BTreeSet::new(),
            told: BTreeSet::new(),
            broken: BTreeSet::new(),
            fill: None,
            not_before: None,
        }
    }

    pub async fn before_connect(&mut self, spec: &ReplicaSpec) {
        self.take(spec, KeepCause::Connect).await;
    }

    pub async fn before_resync(&mut self, number: u32) {
        let entries = self.parts.registry.all();
        let spec = entries.iter().flat_map(|entry| &entry.replicas).find(|s| s.number == number);
        if let Some(spec) = spec {
            self.take(spec, KeepCause::Resync).await;
        }
    }

    /// The newest whole copy of a disk.
    pub(super) fn newest(&self, vm: &VmName, disk: &DiskName) -> Option<&KeptVolume> {
        let all = self.kept.iter().flatten();
        let of = all.filter(|kept| kept.keep.vm == *vm && kept.keep.disk == *disk && kept.whole);
        of.max_by_key(|kept| kept.keep.taken_ms)
    }

    /// Reads which copies there are. One that is not known to be whole, because its making was cut off,
    /// is of no use to anybody.
    pub(super) async fn load(&mut self) -> bool {
        if self.kept.is_some() {
            return true;
        }
        match self.parts.volumes.kept().await {
            Ok(all) => {
                let (whole, half): (Vec<_>, Vec<_>) = all.into_iter().partition(|kept| kept.whole);
                self.kept = Some(whole);
                for kept in half {
                    self.remove(&kept.keep, "its making was cut off").await;
                }
                self.show_put_back();
                true
            }
            // Before there is a pool there is nothing to keep.
            Err(err) => {
                tracing::debug!(error = error_chain(&err), "kept copies not read");
                false
            }
        }
    }

    pub(super) fn show_put_back(&self) {
        let all = self.kept.iter().flatten();
        let used = all.filter(|kept| kept.used).map(|kept| kept.keep.vm.clone());
        *self.put_back.lock().unwrap_or_else(PoisonError::into_inner) = used.collect();
    }

    pub(super) fn mark_used(&mut self, keep: &Keep) {
        for kept in self.kept.iter_mut().flatten().filter(|kept| kept.keep == *keep) {
            kept.used = true;
        }
        self.show_put_back();
    }

    /// Copies this volume if it is whole, and has no copy of its present content yet.
    async fn take(&mut self, spec: &ReplicaSpec, cause: KeepCause) {
        if !self.load().await {
            return;
        }
        let Some(before) = self.status(spec.number).await.filter(rules::takes_copy) else { return };
        let has = self.newest(&spec.vm, &spec.disk).is_some();
        if has && self.fresh.contains(&spec.number) {
            return;
        }
        if self.full().await {
            let words = "the disks for VMs are nearly full. A resync goes on without it";
            return self.not_kept(spec, words);
        }
        let keep = self.order(spec, cause);
        // Only who waits for this step connects it.
        let alone = before.link == LinkState::StandAlone;
        if let Err(err) = self.parts.volumes.keep(&keep, alone).await {
            return self.not_kept(spec, &error_chain(&err));
        }
        let kept = KeptVolume { keep: keep.clone(), whole: alone, used: false };
        self.kept.get_or_insert_default().push(kept);
        if !alone && !self.prove(spec, &keep).await {
            return;
        }
        tracing::info!(copy = keep.name(), ?cause, "a whole copy is kept");
        self.fresh.insert(spec.number);
        self.told.remove(&spec.number);
        self.drop_older(&keep).await;
    }

    fn order(&self, spec: &ReplicaSpec, cause: KeepCause) -> Keep {
        let epoch = self.parts.hub.read(|state| state.pair.as_ref().map_or(0, |p| p.epoch.0));
        let (vm, disk) = (spec.vm.clone(), spec.disk.clone());
        // Two copies of one disk must not have one name, whatever the clock does.
        let last = self.kept.iter().flatten().filter(|kept| kept.keep.vm == vm);
        let last_ms = last.map(|kept| kept.keep.taken_ms).max().unwrap_or(0);
        let taken_ms = clock::now_ms().max(last_ms.saturating_add(1));
        let holds_ms = self.held.of(&spec.resource());
        Keep { vm, disk, taken_ms, holds_ms, epoch, cause }
    }

    /// Whether nothing had been written to the volume when the copy was complete.
    async fn prove(&mut self, spec: &ReplicaSpec, keep: &Keep) -> bool {
        let whole = self.status(spec.number).await.is_some_and(|s| rules::takes_copy(&s));
        if !whole {
            self.remove(keep, "the resync had begun").await;
            self.not_kept(spec, "the resync began before it was made");
            return false;
        }
        if let Err(err) = self.parts.volumes.prove_kept(keep).await {
            self.not_kept(spec, &error_chain(&err));
            return false;
        }
        for kept in self.kept.iter_mut().flatten().filter(|kept| kept.keep == *keep) {
            kept.whole = true;
        }
        true
    }

    async fn drop_older(&mut self, newest: &Keep) {
        let of = |kept: &&KeptVolume| {
            kept.keep.vm == newest.vm && kept.keep.disk == newest.disk && kept.keep != *newest
        };
        let older: Vec<Keep> =
            self.kept.iter().flatten().filter(of).map(|kept| kept.keep.clone()).collect();
        for keep in older {
            self.remove(&keep, "a newer whole copy is kept").await;
        }
    }

    pub(super) async fn remove(&mut self, keep: &Keep, cause: &str) -> bool {
        tracing::info!(copy = keep.name(), cause, "kept copy dropped");
        let order = RemovalOrder::new(VolumeId::Kept(keep.name()), cause);
        if let Err(err) = self.parts.volumes.remove(order).await {
            tracing::warn!(copy = keep.name(), error = error_chain(&err), "copy not dropped");
            self.not_before = Some(Instant::now() + RETRY);
            return false;
        }
        self.kept.iter_mut().for_each(|all| all.retain(|kept| kept.keep != *keep));
        true
    }

    pub(super) async fn status(&self, number: u32) -> Option<ReplicaStatus> {
        let all = self.parts.replication.status().await.ok()?;
        all.into_iter().find(|status| status.number == number)
    }

    /// Says once in an outage that a volume has no copy.
    fn not_kept(&mut self, spec: &ReplicaSpec, why: &str) {
        tracing::warn!(resource = spec.resource(), why, "no copy kept");
        if self.told.insert(spec.number) {
            let text =
                format!("No copy of {} from before a resync is kept: {why}.", spec.resource());
            self.parts.hub.event("copy_not_kept", text);
        }
    }

    async fn full(&mut self) -> bool {
        let watched = *self.parts.fill.borrow();
        let old = |(at, fill): (Instant, Fill)| at.elapsed() >= USAGE_FOR || fill < watched;
        let stale = self.fill.is_none_or(old);
        if stale && let Ok(usage) = self.parts.volumes.usage().await {
            self.fill = Some((Instant::now(), watched.next(&usage)));
        }
        self.fill.map_or(watched, |(_, fill)| fill) == Fill::Full
    }

    /// Looks at all volumes: takes what is due, drops what is not needed, says what is broken.
    pub async fn look(&mut self, statuses: &[ReplicaStatus]) {
        if self.not_before.is_some_and(|at| Instant::now() < at) || !self.load().await {
            return;
        }
        self.not_before = None;
        self.track(statuses);
        let (mut older, mut complete) = (OlderData::default(), true);
        for entry in self.parts.registry.all().into_iter().filter(|entry| entry.counted) {
            match self.judge(&entry, statuses).await {
                None => {}
                Some(Some(holds_ms)) => older.add(holds_ms),
                Some(None) => complete = false,
            }
        }
        let older = (complete && older.vms > 0).then_some(older);
        if self.parts.hub.read(|state| state.older_data != older) {
            self.parts.hub.update(|state| state.older_data = older);
        }
    }

    fn track(&mut self, statuses: &[ReplicaStatus]) {
        self.held.saw(statuses, clock::now_ms());
        for status in statuses {
            if status.link.is_up() {
                self.parted.remove(&status.number);
                self.fresh.remove(&status.number);
                self.told.remove(&status.number);
            } else if status.link != LinkState::Negotiating {
                self.parted.entry(status.number).or_insert_with(Instant::now);
            }
        }
    }

    /// What is to be done for one VM. `None`: it is not half copied; else up to when its whole copies
    /// hold everything, if there is one of every volume.
    async fn judge(&mut self, entry: &VmEntry, statuses: &[ReplicaStatus]) -> Option<Option<u64>> {
        let vm = &entry.assignment.name;
        let find = |spec: &ReplicaSpec| statuses.iter().find(|s| s.number == spec.number);
        let volumes: Vec<_> = entry.replicas.iter().map(find).collect();
        let keeps = self.kept.iter().flatten().any(|kept| kept.keep.vm == *vm);
        if keeps && volumes.iter().flatten().any(|status| rules::is_half(status)) {
            self.overwritten.insert(vm.clone());
        }
        // A resync that breaks up what is shared with a copy may fill the pool before its guard looks.
        let copied = volumes.iter().flatten().any(|s| rules::is_half(s) && s.link.is_up());
        let full = keeps && copied && self.full().await;
        let verdict = rules::verdict(&volumes, full);
        let needed = verdict == Verdict::Needed && self.lost_for_good(entry);
        let holds_ms = if needed { self.whole_set(entry) } else { None };
        self.say_broken(vm, needed, holds_ms);
        match verdict {
            Verdict::Needed if needed => return Some(holds_ms),
            Verdict::Needed => {}
            Verdict::Stay => self.take_due(entry, statuses).await,
            Verdict::Equal | Verdict::WrittenHere | Verdict::Full if keeps => {
                self.release(vm, verdict).await;
            }
            Verdict::Equal | Verdict::WrittenHere | Verdict::Full => {}
        }
        None
    }

    /// Whether no volume has been connected for a while.
    fn lost_for_good(&self, entry: &VmEntry) -> bool {
        entry.replicas.iter().all(|spec| {
            let since = self.parted.get(&spec.number);
            since.is_some_and(|since| since.elapsed() >= self.parts.patience)
        })
    }

    /// Up to when all copies hold everything, if there is a whole one of each volume.
    pub(super) fn whole_set(&self, entry: &VmEntry) -> Option<u64> {
        let times = entry
            .replicas
            .iter()
            .map(|spec| self.newest(&spec.vm, &spec.disk).map(|kept| kept.keep.holds_ms));
        times.collect::<Option<Vec<u64>>>()?.into_iter().min()
    }

    async fn take_due(&mut self, entry: &VmEntry, statuses: &[ReplicaStatus]) {
        let state =
            self.parts.hub.read(|all| all.pair.as_ref().map(|pair: &CoreStatus| pair.state));
        let after = match state {
            // It goes on alone: others will be overwritten by it.
            Some(PeerState::Solo) => return,
            Some(PeerState::Wait | PeerState::Loser) => LOST_AFTER.min(self.parts.patience),
            _ => self.parts.patience,
        };
        for spec in &entry.replicas {
            let status = statuses.iter().find(|status| status.number == spec.number);
            let since = self.parted.get(&spec.number);
            let due = since.is_some_and(|since| since.elapsed() >= after)
                && status.is_some_and(rules::takes_copy)
                && !self.fresh.contains(&spec.number)
                && !self.told.contains(&spec.number);
            if due {
                self.take(spec, KeepCause::Parted).await;
            }
        }
    }

    async fn release(&mut self, vm: &VmName, verdict: Verdict) {
        let of = self.kept.iter().flatten().filter(|kept| kept.keep.vm == *vm);
        let keeps: Vec<Keep> = of.map(|kept| kept.keep.clone()).collect();
        let holds_ms = keeps.iter().map(|keep| keep.holds_ms).min().unwrap_or(0);
        let why = match verdict {
            Verdict::Full => {
                "the disks for VMs are nearly full and the other server has everything"
            }
            Verdict::WrittenHere => "its volumes are written here and are the newest",
            _ => "both servers hold everything",
        };
        for keep in keeps {
            if !self.remove(&keep, why).await {
                return;
            }
        }
        self.show_put_back();
        let resynced = self.overwritten.remove(vm);
        if resynced || verdict == Verdict::Full {
            let text = format!(
                "The copies of {vm} from before the resync ({}) are dropped: {why}.",
                up_to(holds_ms)
            );
            self.parts.hub.event("copy_dropped", text);
        }
    }

    fn say_broken(&mut self, vm: &VmName, broken: bool, holds_ms: Option<u64>) {
        let words = broken.then(|| broken_words(vm, holds_ms));
        if !broken {
            self.broken.remove(vm);
        } else if self.broken.insert(vm.clone())
            && let Some(words) = &words
        {
            self.parts.hub.event("resync_broken", words.clone());
        }
        self.parts.hub.problem(Concern::Disks, &format!("half {vm}"), words);
    }
}

/// What a copy is worth.
pub(super) fn up_to(holds_ms: u64) -> String {
    match holds_ms {
        0 => "up to a time that is not known".to_owned(),
        ms => format!("everything up to {}", utc(ms / 1000)),
    }
}

fn broken_words(vm: &VmName, holds_ms: Option<u64>) -> String {
    let lost = format!(
        "The other server was lost while it was copying to this one: {vm} is half copied here and \
         cannot run. Bring the other server back"
    );
    match holds_ms {
        Some(ms) => format!(
            "{lost}. If it is gone for good: whole copies are kept here, {} (key o at the console)",
            up_to(ms)
        ),
        None => format!("{lost}: no whole copy from before is kept here"),
    }
}
