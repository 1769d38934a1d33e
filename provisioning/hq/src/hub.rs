// SPDX-License-Identifier: Apache-2.0
//! Who waits for what inside this process: long polls for a site, event streams for all.

use provisioning_protocol::ids::SiteName;
use provisioning_protocol::operator::EventView;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::{broadcast, watch};

/// Messages a slow stream may lag behind before it is told to look again.
const BACKLOG: usize = 256;

/// What streams hear of.
#[derive(Debug, Clone)]
pub enum News {
    /// Something on the page changed.
    Changed,
    /// A new event.
    Event(Box<EventView>),
}

/// Wakes waiters.
#[derive(Debug)]
pub struct Hub {
    sites: Mutex<HashMap<SiteName, watch::Sender<u64>>>,
    news: broadcast::Sender<News>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { sites: Mutex::default(), news: broadcast::channel(BACKLOG).0 }
    }
}

impl Hub {
    /// A receiver that wakes when the site's revision moves.
    pub fn wait_for(&self, site: &SiteName) -> watch::Receiver<u64> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.entry(site.clone()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Says that the site's desired state has this revision now.
    pub fn site_changed(&self, site: &SiteName, revision: u64) {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = sites.get(site) {
            sender.send_replace(revision);
        }
        drop(sites);
        self.tell(News::Changed);
    }

    /// Tells all streams.
    pub fn tell(&self, news: News) {
        // No stream open is no error.
        let _ = self.news.send(news);
    }

    /// A new stream.
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }
}
