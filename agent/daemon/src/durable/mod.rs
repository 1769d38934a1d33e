// SPDX-License-Identifier: Apache-2.0
//! What survives a power cut: checksummed slots, whole-file replacement, append-only causes.

pub mod causes;
pub mod file;
pub mod lifetime;
pub mod recorder;
pub mod slots;
