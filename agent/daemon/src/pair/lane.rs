// SPDX-License-Identifier: Apache-2.0
//! A lane carries out jobs one after the other, without holding up who orders them.

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

/// A queue of jobs. The core never has more than a few effects open on one lane.
#[derive(Debug, Clone)]
pub struct Lane {
    jobs: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
}

impl Lane {
    /// Starts a lane; it ends when its last handle is dropped.
    #[must_use]
    pub fn new() -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<BoxFuture<'static, ()>>();
        tokio::spawn(async move {
            while let Some(job) = queue.recv().await {
                job.await;
            }
        });
        Self { jobs }
    }

    /// Adds a job at the end.
    pub fn push(&self, job: impl Future<Output = ()> + Send + 'static) {
        if self.jobs.send(Box::pin(job)).is_err() {
            tracing::error!("a lane has died");
        }
    }

    /// Ends when every job added so far has.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let (end, ended) = oneshot::channel::<()>();
        self.push(async move { drop(end) });
        async move { drop(ended.await) }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self::new()
    }
}
