// SPDX-License-Identifier: Apache-2.0
//! What the host's own programs say: trusted to be honest, not to be whole.

use hypervisor_glue::FakeRunner;
use hypervisor_glue::command::Finished;
use hypervisor_glue::replication::read_drbd;
use hypervisor_glue::vms::read_qmp;
use hypervisor_glue::volumes::{LvmVolumes, Volumes};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

/// `drbdsetup events2`.
pub fn drbd(data: &[u8]) {
    let (statuses, _) = read_drbd(&String::from_utf8_lossy(data));
    assert!(statuses.iter().all(|status| status.resync_percent.is_none_or(|done| done <= 100)));
}

/// A line of QEMU's.
pub fn qmp(data: &[u8]) {
    let _ = read_qmp(data);
}

/// `lsblk`, `pvs`, `blkid` and `wipefs`, separated by NUL.
pub fn lvm(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let mut parts = text.split('\0');
    let runner = FakeRunner::new();
    for program in ["lsblk", "pvs", "lvs", "vgs", "blkid", "wipefs"] {
        let said = parts.next().unwrap_or_default();
        runner.on_prefix(program, Finished::with_stdout(said));
    }
    let volumes = LvmVolumes::new(Arc::new(runner));
    at_once(volumes.survey());
    at_once(volumes.open_pool());
}

/// A fake answers without waiting.
fn at_once<T>(job: impl Future<Output = T>) {
    let _ = pin!(job).poll(&mut Context::from_waker(Waker::noop()));
}
