// SPDX-License-Identifier: Apache-2.0
//! What this server knows of itself, in one place: the console, HQ and the lab all read from it.

pub mod events;
pub mod hub;
pub mod problems;
pub mod writer;

pub use hub::Hub;
pub use problems::Concern;
