// SPDX-License-Identifier: Apache-2.0
//! Writes `status.json`: at once on a change (at most four times a second), and every second.

use super::Hub;
use crate::durable::file::{self, Mode};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(250);
const PERIOD: Duration = Duration::from_millis(900);

/// Runs for ever.
pub async fn run(hub: Arc<Hub>, path: PathBuf) {
    let mut changes = hub.subscribe();
    loop {
        changes.mark_unchanged();
        let bytes = serde_json::to_vec(&hub.local()).expect("plain data becomes JSON");
        if let Err(error) = file::replace(&path, &bytes, Mode::Public, false) {
            tracing::warn!(%error, "status not written");
        }
        tokio::time::sleep(PAUSE).await;
        // A hub that is gone, or no change: both end in the next write.
        drop(tokio::time::timeout(PERIOD - PAUSE, changes.changed()).await);
    }
}
