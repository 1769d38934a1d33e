// SPDX-License-Identifier: Apache-2.0
//! The HQ server: enrolment, desired state, witness, catalogue, operator API and dashboard.
//!
//! One binary with an embedded default (SQLite and a folder). Servers reach it over mutual TLS,
//! operators with a token. HQ holds the online keys of the catalogue (snapshot and timestamp)
//! and never the offline ones: taking HQ over does not let anyone install unsigned code.

pub mod agent;
pub mod app;
pub mod catalogue;
pub mod clock;
pub mod csr;
pub mod dashboard;
pub mod db;
pub mod enrol;
pub mod files;
pub mod http;
pub mod hub;
pub mod init;
pub mod jws;
pub mod limit;
pub mod operator;
pub mod pki;
pub mod problem;
pub mod serve;
pub mod tls;
pub mod tls_verify;
