// SPDX-License-Identifier: Apache-2.0
//! A volume that was put back to an older copy begins anew: its metadata must not tell of the present
//! other server. A resync under way clears the bits of what it has copied there; those blocks are old
//! again here, and a resync by bitmap would leave them so, silently.
//!
//! With fresh metadata the other server's copy is either taken whole (as long as this one is not
//! [`Replication::adopt`]ed) or refused as unrelated, never mixed in.
//!
//! [`Replication::adopt`]: super::Replication::adopt

use super::{DISK_OPTIONS, DrbdReplication};
use crate::command::failed;
use crate::error::{GlueError, Result};
use crate::replication::ReplicaSpec;

impl DrbdReplication {
    async fn must_be_down(&self, spec: &ReplicaSpec, operation: &str) -> Result<()> {
        match self.own(spec).await? {
            None => Ok(()),
            Some(status) => Err(GlueError::refused(
                format!("{operation} {}", spec.resource()),
                format!("it is up: {status:?}"),
            )),
        }
    }

    pub(super) async fn metadata_anew(&self, spec: &ReplicaSpec) -> Result<()> {
        self.must_be_down(spec, "give fresh metadata to").await?;
        let command = self.meta(spec, &["--force"], "create-md");
        let shown = command.shown();
        let finished = self.metadata(command).await?;
        if !finished.ok() {
            return Err(failed(shown, &finished));
        }
        tracing::warn!(resource = %spec.resource(), "replication metadata made anew");
        Ok(())
    }

    /// Without a connection and without fencing, so that nobody is asked and nobody can answer.
    pub(super) async fn declare_newest(&self, spec: &ReplicaSpec) -> Result<()> {
        self.must_be_down(spec, "adopt").await?;
        let (resource, number) = (spec.resource(), spec.number.to_string());
        let applied = self.metadata(self.meta(spec, &[], "apply-al")).await?;
        if !applied.ok() {
            return Err(failed(format!("apply-al of {resource}"), &applied));
        }
        let outcome = self.forced(spec, &resource, &number).await;
        let down = self.drbd(&["down", &resource]).await;
        outcome.and(down)
    }

    async fn forced(&self, spec: &ReplicaSpec, resource: &str, number: &str) -> Result<()> {
        self.drbd(&["new-resource", resource]).await?;
        self.drbd(&["new-minor", resource, number, "0"]).await?;
        let backing = spec.backing.display().to_string();
        let size = format!("--size={}s", spec.guest_bytes / 512);
        let mut words = vec!["attach", number, &backing, &backing, "internal", &size];
        words.extend(DISK_OPTIONS.iter().filter(|word| !word.starts_with("--fencing")));
        words.push("--fencing=dont-care");
        self.drbd(&words).await?;
        self.drbd(&["primary", number, "--force"]).await?;
        self.drbd(&["secondary", number]).await
    }
}
