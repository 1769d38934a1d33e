// SPDX-License-Identifier: Apache-2.0
//! Which QEMU emulates a server.
//!
//! The OS image is built with tools of its own, among them a QEMU of the image's Debian. It emulates
//! servers about twice as fast as Debian 12's, which is used where the other is not there. A host's own
//! hypervisor is left to the host's own QEMU.

use crate::accel::Accel;
use std::path::{Path, PathBuf};

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// Firmware and option ROMs.
const DATA: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// A program and the arguments that come before all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// The program.
    pub program: PathBuf,
    /// The first arguments.
    pub args: Vec<String>,
}

impl Emulator {
    /// The one to use for servers run by `accel`, where the image's build tools lie in `tools`.
    #[must_use]
    pub fn find(tools: Option<&Path>, accel: Accel) -> Self {
        let host = Self { program: PathBuf::from("qemu-system-x86_64"), args: Vec::new() };
        let Some(tools) =
            tools.filter(|tools| accel == Accel::Tcg && tools.join(PROGRAM).is_file())
        else {
            return host;
        };
        let at = |place: &str| tools.join(place).display().to_string();
        let mut args = vec!["--library-path".to_owned(), at(LIBRARIES), at(PROGRAM)];
        args.extend(DATA.iter().flat_map(|place| ["-L".to_owned(), at(place)]));
        Self { program: tools.join(LOADER), args }
    }
}

#[cfg(test)]
mod tests {
    use super::{Accel, Emulator, PROGRAM};

    #[test]
    fn the_hosts_own_is_used_where_no_other_is_or_it_has_kvm() {
        let dir = crate::rundir::temp_dir("emulator").unwrap();
        let host = Emulator::find(None, Accel::Tcg);
        assert_eq!((host.program.to_str(), host.args.len()), (Some("qemu-system-x86_64"), 0));
        assert_eq!(Emulator::find(Some(dir.path()), Accel::Tcg), host);
        let program = dir.path().join(PROGRAM);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "").unwrap();
        assert_eq!(Emulator::find(Some(dir.path()), Accel::Kvm), host);
        let other = Emulator::find(Some(dir.path()), Accel::Tcg);
        assert!(
            other.program.starts_with(dir.path()) && other.args[2] == program.to_str().unwrap()
        );
    }
}
