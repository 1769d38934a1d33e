// SPDX-License-Identifier: Apache-2.0
//! What a box is: its keys, and what HQ has given it for them.

use crate::file;
use crate::keys::Keys;
use anyhow::{Context as _, bail};
use provisioning_protocol::local_witness::BoxAdmission;
use std::path::Path;

const ADMISSION: &str = "admission.json";

/// An enrolled box.
pub struct Identity {
    /// What HQ has given.
    pub admission: BoxAdmission,
    /// The box's own.
    pub keys: Keys,
}

impl Identity {
    /// Reads an enrolled box from its folder.
    ///
    /// # Errors
    /// If it has not been enrolled, or a file is damaged.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let admission = file::load(&folder.join(ADMISSION))?.with_context(|| {
            format!("{} holds no enrolled witness; run forecourt-witness enrol", folder.display())
        })?;
        let keys = Keys::load(folder)?.context("the keys are gone: enrol the box again")?;
        Ok(Self { admission, keys })
    }

    /// Keeps what HQ has given. A folder stays with its site: its record is no other's.
    ///
    /// # Errors
    /// If it is another site's, or cannot be kept.
    pub fn keep(folder: &Path, admission: &BoxAdmission) -> anyhow::Result<()> {
        let path = folder.join(ADMISSION);
        if let Some(earlier) = file::load::<BoxAdmission>(&path)?
            && earlier.site != admission.site
        {
            bail!("the folder is the witness of site {}; use another one", earlier.site);
        }
        file::store(&path, admission)
    }
}
