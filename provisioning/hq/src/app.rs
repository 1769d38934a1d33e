// SPDX-License-Identifier: Apache-2.0
//! What every handler shares.

use crate::clock::Clock;
use crate::db::witness::Witness;
use crate::db::{Db, Tx, events};
use crate::hub::{Hub, News};
use crate::limit::Limiter;
use crate::pki::Authority;
use aws_lc_rs::signature::EcdsaKeyPair;
use provisioning_catalogue::keys::OnlinePublicKeys;
use provisioning_catalogue::repository::Repository;
use provisioning_protocol::ids::{NodeSlot, SiteName};
use provisioning_protocol::operator::EventView;
use provisioning_protocol::owner::OwnerBundle;
use provisioning_protocol::report::Event;
use std::sync::Arc;

/// The state behind all handlers.
#[derive(Clone)]
pub struct App(Arc<Inner>);

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// See [`App`].
pub struct Inner {
    /// Main database.
    pub db: Db,
    /// Witness records.
    pub witness: Witness,
    /// Catalogue folder.
    pub catalogue: Repository,
    /// Public halves of the keys that HQ signs the catalogue's freshness with.
    pub online_keys: OnlinePublicKeys,
    /// What a claim stick tells servers, but for the catalogue's root.
    pub owner: OwnerBundle,
    /// Signs servers' certificates.
    pub issuing: Authority,
    /// Root CA, PEM.
    pub root_ca_pem: String,
    /// Signs vouchers.
    pub voucher_key: EcdsaKeyPair,
    /// What operators prove themselves with.
    pub operator_token: String,
    /// Wakes long polls and streams.
    pub hub: Hub,
    /// Time.
    pub clock: Clock,
    /// Per-source limits.
    pub limits: Limits,
}

/// Per-source limits of what is open to the world.
pub struct Limits {
    /// Voucher requests.
    pub vouchers: Limiter,
    /// Boxes without a claim that are new to HQ.
    pub applicants: Limiter,
    /// Wrong claim codes.
    pub wrong_codes: Limiter,
    /// Wrong operator tokens.
    pub wrong_tokens: Limiter,
}

impl Default for Limits {
    fn default() -> Self {
        const MINUTE: i64 = 60_000;
        Self {
            vouchers: Limiter::new(120, MINUTE),
            applicants: Limiter::new(10, 60 * MINUTE),
            wrong_codes: Limiter::new(30, 60 * MINUTE),
            wrong_tokens: Limiter::new(20, MINUTE),
        }
    }
}

impl App {
    /// Wraps the parts.
    #[must_use]
    pub fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Stores an event of HQ's own in a write that also holds its cause.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn event(
        &self,
        tx: &mut Tx,
        site: Option<&SiteName>,
        slot: Option<NodeSlot>,
        code: &str,
        text: impl Into<String>,
    ) -> Result<EventView, sqlx::Error> {
        let now_ms = self.clock.now_ms();
        let at_ms = crate::clock::unsigned(now_ms);
        let event = Event { at_ms, code: code.to_owned(), text: text.into() };
        events::add(tx, site, slot, &event, now_ms).await
    }

    /// Tells the streams of stored events; call it after the commit.
    pub fn publish(&self, events: impl IntoIterator<Item = EventView>) {
        for event in events {
            self.hub.tell(News::Event(Box::new(event)));
        }
    }
}
