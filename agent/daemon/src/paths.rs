// SPDX-License-Identifier: Apache-2.0
//! Where the agent keeps things: one place, so that tests can move it all into a folder.

use std::path::{Path, PathBuf};

/// Roots of the agent's files.
#[derive(Debug, Clone)]
pub struct Paths {
    var: PathBuf,
    run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { var: "/var/lib/forecourt".into(), run: "/run/forecourt".into() }
    }
}

impl Paths {
    /// Everything below one folder, for tests.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self { var: root.join("var"), run: root.join("run") }
    }

    /// Makes the folders; `identity` is for root's eyes only.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn create(&self) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for dir in [self.var.clone(), self.run.clone(), self.state_dir(), self.tuf_dir()] {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(self.identity_dir())
    }

    /// Keys, certificate and enrolment record.
    #[must_use]
    pub fn identity_dir(&self) -> PathBuf {
        self.var.join("identity")
    }

    /// The pair's durable state: two slots.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.var.join("state")
    }

    /// TUF metadata seen so far: what makes a rollback noticeable.
    #[must_use]
    pub fn tuf_dir(&self) -> PathBuf {
        self.var.join("tuf")
    }

    /// The last desired state HQ sent.
    #[must_use]
    pub fn desired(&self) -> PathBuf {
        self.var.join("desired.json")
    }

    /// Installed template versions: the floor below which nothing is installed.
    #[must_use]
    pub fn floors(&self) -> PathBuf {
        self.var.join("floors.json")
    }

    /// VMs whose volumes were once in sync on both servers.
    #[must_use]
    pub fn ready_vms(&self) -> PathBuf {
        self.var.join("volumes.json")
    }

    /// When the copies of each volume were last compared.
    #[must_use]
    pub fn compared(&self) -> PathBuf {
        self.var.join("compared.json")
    }

    /// Up to when each volume holds everything.
    #[must_use]
    pub fn held(&self) -> PathBuf {
        self.var.join("held.json")
    }

    /// Template byte counters.
    #[must_use]
    pub fn counters(&self) -> PathBuf {
        self.var.join("counters.json")
    }

    /// One human line per takeover and the like.
    #[must_use]
    pub fn causes(&self) -> PathBuf {
        self.var.join("causes.jsonl")
    }

    /// How the last boot ended.
    #[must_use]
    pub fn last_boot(&self) -> PathBuf {
        self.var.join("boot.json")
    }

    /// What the console draws.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.run.join("status.json")
    }

    /// Link to [`Paths::causes`] for readers of the runtime folder.
    #[must_use]
    pub fn cause_link(&self) -> PathBuf {
        self.run.join("cause.log")
    }

    /// Where drbd-helper asks.
    #[must_use]
    pub fn helper_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// Where the console gives a person's orders.
    #[must_use]
    pub fn operator_socket(&self) -> PathBuf {
        self.run.join("operator.sock")
    }

    /// Where the watchdog keeper listens.
    #[must_use]
    pub fn watchdog_socket(&self) -> PathBuf {
        self.run.join("watchdog.sock")
    }

    /// Where the claim stick is mounted.
    #[must_use]
    pub fn stick(&self) -> PathBuf {
        self.run.join("stick")
    }
}
