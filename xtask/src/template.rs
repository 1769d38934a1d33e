// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask template`: builds the example template `parts-counter`.

use crate::{build, deps, paths, sh};
use std::path::Path;

/// Builds the example template's folder (template.yaml and its disk images); cached by its builder.
pub fn run(out: Option<&Path>) -> anyhow::Result<()> {
    deps::ensure(&[deps::BUILD, deps::TEMPLATE].concat())?;
    let out = out.map_or_else(|| paths::target().join("template"), Path::to_path_buf);
    let mut command = build::cargo();
    command.args(["run", "--quiet", "--release", "-p", "tests-guest", "--", "build", "--out"]);
    sh::step("build the example template", command.arg(&out))
}
