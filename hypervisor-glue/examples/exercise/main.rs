// SPDX-License-Identifier: Apache-2.0
//! Exercises this crate on a real kernel. For throw-away machines alone: it takes blank disks.
//!
//! ```text
//! exercise volumes                  pool, template, snapshot and data volume on this machine
//! exercise kept                     the same, and a disk put back to a copy, with DRBD loaded
//! exercise pair a|b KEYS            two machines: tunnels, replication, freeze, thaw, eviction
//! exercise vm SYSTEM DATA           the example VM from two block devices, under systemd
//! ```
//! KEYS is a folder with `a.key` and `b.key`. Each step is printed; the first failure ends it.

mod helper;
mod kept;
mod pair;
mod vm;
mod volumes;

use anyhow::Context as _;
use std::time::Instant;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["volumes"] => volumes::run().await.map(drop),
        ["kept"] => kept::run().await,
        ["pair", "a", keys] => pair::run(provisioning_protocol::ids::NodeSlot::A, keys).await,
        ["pair", "b", keys] => pair::run(provisioning_protocol::ids::NodeSlot::B, keys).await,
        ["vm", system, data] => vm::run(system, data).await,
        _ => anyhow::bail!("usage: exercise volumes | kept | pair a|b KEYS | vm SYSTEM DATA"),
    }?;
    println!("EXERCISE-OK");
    Ok(())
}

/// Runs one step, prints how long it took.
pub async fn step<T, E>(what: &str, job: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
{
    let started = Instant::now();
    let result = job.await.map_err(Into::into).with_context(|| format!("Step: {what}"));
    let word = if result.is_ok() { "ok  " } else { "FAIL" };
    println!("{word} {:>6} ms  {what}", started.elapsed().as_millis());
    result
}

/// Waits until a condition holds.
pub async fn until<F>(what: &str, limit_s: u64, mut check: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<bool>>,
{
    let waiting = async {
        let limit = std::time::Duration::from_secs(limit_s);
        let started = Instant::now();
        while !check().await? {
            anyhow::ensure!(started.elapsed() < limit, "it did not come about in {limit:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok::<(), anyhow::Error>(())
    };
    step(&format!("until {what}"), waiting).await
}
