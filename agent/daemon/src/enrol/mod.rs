// SPDX-License-Identifier: Apache-2.0
//! From a claim code to a certificate: voucher request, voucher, EST, status.

pub mod backoff;
pub mod chain;
pub mod flow;
pub mod jws;
pub mod renew;
pub mod voucher;
