// SPDX-License-Identifier: Apache-2.0
//! As little Redfish as switching power takes: find the system, order `ComputerSystem.Reset`, read
//! `PowerState`.

use super::tls;
use crate::hq::client::{error_chain, innermost};
use provisioning_protocol::bmc::{Bmc, BmcFault, is_system};
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

/// One request; real BMCs answer within a second.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// All of a power-off (the core waits for no more than 15 s).
const OFF_LIMIT: Duration = Duration::from_secs(10);
/// All of a power-on, and of a look.
const SHORT_LIMIT: Duration = Duration::from_secs(8);
/// Between two readings: a BMC that says "Off" on receipt of the order is asked again.
const BETWEEN_READS: Duration = Duration::from_millis(500);
/// Longest answer; a system's description has some 10 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
const SYSTEMS: &str = "/redfish/v1/Systems";

/// Why a BMC did not do as told.
#[derive(Debug, Error)]
pub enum BmcError {
    /// The configuration cannot be right.
    #[error("The BMC's configuration is wrong")]
    Config(#[from] BmcFault),
    /// The client could not be built.
    #[error("The connection to the BMC cannot be set up")]
    Setup(#[source] reqwest::Error),
    /// TLS could not be set up.
    #[error("TLS to the BMC cannot be set up")]
    Tls(#[source] rustls::Error),
    /// No connection, or it broke; another certificate than the pinned one is such a case.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// Which BMC.
        url: String,
        /// In words.
        reason: String,
    },
    /// It said no.
    #[error("{url}{path} answered HTTP {status}")]
    Refused {
        /// Which BMC.
        url: String,
        /// What was asked.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It answered something else.
    #[error("{url}{path} answered with {what}")]
    Answer {
        /// Which BMC.
        url: String,
        /// What was asked.
        path: String,
        /// What came.
        what: &'static str,
    },
    /// "Off" was not read twice in time.
    #[error("{url} did not say \"Off\" twice within the time; it said {last}")]
    StaysOn {
        /// Which BMC.
        url: String,
        /// What was read last.
        last: String,
    },
    /// Nothing was done in time.
    #[error("{url} took too long")]
    Late {
        /// Which BMC.
        url: String,
    },
}

#[derive(Deserialize)]
struct Members {
    #[serde(rename = "Members")]
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(rename = "@odata.id")]
    id: String,
}

#[derive(Deserialize)]
struct System {
    #[serde(rename = "PowerState")]
    power: Option<Power>,
}

/// A system's power as its BMC tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Power {
    /// `Off`.
    Off,
    /// Any other word.
    Other(String),
}

impl From<String> for Power {
    fn from(text: String) -> Self {
        if text == "Off" { Self::Off } else { Self::Other(text.chars().take(40).collect()) }
    }
}

/// One BMC.
pub struct Redfish {
    http: Client,
    bmc: Bmc,
    url: String,
}

impl std::fmt::Debug for Redfish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redfish").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Redfish {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// [`BmcError`].
    pub fn new(bmc: &Bmc) -> Result<Self, BmcError> {
        bmc.check()?;
        let pin = bmc.pin().expect("looked at above");
        let http = Client::builder()
            .tls_backend_preconfigured(tls::client_config(pin).map_err(BmcError::Tls)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(REQUEST_LIMIT)
            .timeout(REQUEST_LIMIT)
            // Small servers, some with few connections at all.
            .pool_max_idle_per_host(1)
            .build()
            .map_err(BmcError::Setup)?;
        let url = bmc.url.trim_end_matches('/').to_owned();
        Ok(Self { http, bmc: bmc.clone(), url })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Switches the system off and reads "Off" twice.
    ///
    /// # Errors
    /// [`BmcError`]: then nothing is known.
    pub async fn off(&self) -> Result<(), BmcError> {
        let end = Instant::now() + OFF_LIMIT;
        let work = async {
            let path = self.persist(|| self.system()).await?;
            if self.persist(|| self.power(&path)).await? != Power::Off {
                self.persist(|| self.reset(&path, "ForceOff")).await?;
            }
            self.twice_off(&path, end).await
        };
        timeout_at(end, work).await.map_err(|_| BmcError::Late { url: self.url.clone() })?
    }

    /// Two readings in a row, whatever was read before the order.
    async fn twice_off(&self, path: &str, end: Instant) -> Result<(), BmcError> {
        let mut before = false;
        loop {
            let power = self.power(path).await;
            let off = matches!(power, Ok(Power::Off));
            if off && before {
                return Ok(());
            }
            if Instant::now() + BETWEEN_READS >= end {
                let last = match power {
                    Ok(power) => format!("{power:?}"),
                    Err(err) => return Err(err),
                };
                return Err(BmcError::StaysOn { url: self.url.clone(), last });
            }
            before = off;
            sleep(BETWEEN_READS).await;
        }
    }

    /// Switches the system on.
    ///
    /// # Errors
    /// [`BmcError`].
    pub async fn on(&self) -> Result<(), BmcError> {
        self.shortly(async {
            let path = self.system().await?;
            self.reset(&path, "On").await
        })
        .await
    }

    /// Reads the system's power.
    ///
    /// # Errors
    /// [`BmcError`].
    pub async fn look(&self) -> Result<Power, BmcError> {
        self.shortly(async {
            let path = self.system().await?;
            self.power(&path).await
        })
        .await
    }

    async fn shortly<T>(
        &self,
        work: impl Future<Output = Result<T, BmcError>>,
    ) -> Result<T, BmcError> {
        let end = Instant::now() + SHORT_LIMIT;
        timeout_at(end, work).await.map_err(|_| BmcError::Late { url: self.url.clone() })?
    }

    /// Tries again what got no answer; the caller bounds the time. A refusal is final.
    async fn persist<T, R>(&self, ask: impl Fn() -> R) -> Result<T, BmcError>
    where
        R: Future<Output = Result<T, BmcError>>,
    {
        loop {
            match ask().await {
                Err(err @ BmcError::Unreachable { .. }) => {
                    tracing::info!(error = error_chain(&err), "BMC not reached");
                    sleep(BETWEEN_READS).await;
                }
                result => return result,
            }
        }
    }

    async fn system(&self) -> Result<String, BmcError> {
        if let Some(path) = &self.bmc.system {
            return Ok(path.clone());
        }
        let found: Members = self.get(SYSTEMS).await?;
        let fault = |what| Err(self.strange(SYSTEMS, what));
        match found.members.as_slice() {
            [one] if is_system(one.id.trim_end_matches('/')) => {
                Ok(one.id.trim_end_matches('/').to_owned())
            }
            [_] => fault("a system at a path that is none"),
            [] => fault("no system"),
            _ => fault("several systems: say which one is meant"),
        }
    }

    async fn power(&self, path: &str) -> Result<Power, BmcError> {
        let system: System = self.get(path).await?;
        system.power.ok_or_else(|| self.strange(path, "no PowerState"))
    }

    async fn reset(&self, path: &str, kind: &str) -> Result<(), BmcError> {
        let path = format!("{path}/Actions/ComputerSystem.Reset");
        let order = serde_json::json!({ "ResetType": kind });
        self.send(Method::POST, &path, Some(order)).await.map(|_| ())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, BmcError> {
        let body = self.send(Method::GET, path, None).await?;
        serde_json::from_slice(&body).map_err(|_| self.strange(path, "what is no such resource"))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        order: Option<serde_json::Value>,
    ) -> Result<Vec<u8>, BmcError> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .basic_auth(&self.bmc.user, Some(&self.bmc.password.0));
        if let Some(order) = order {
            request = request.json(&order);
        }
        let mut answer = request.send().await.map_err(|err| self.lost(&err))?;
        let status = answer.status();
        if !status.is_success() {
            let (url, path) = (self.url.clone(), path.to_owned());
            return Err(BmcError::Refused { url, path, status });
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|err| self.lost(&err))? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(self.strange(path, "too much"));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    fn lost(&self, err: &reqwest::Error) -> BmcError {
        BmcError::Unreachable { url: self.url.clone(), reason: innermost(err) }
    }

    fn strange(&self, path: &str, what: &'static str) -> BmcError {
        BmcError::Answer { url: self.url.clone(), path: path.to_owned(), what }
    }
}
