// SPDX-License-Identifier: Apache-2.0
//! Checks the variables an operator gives to VMs.

use crate::problem::{Answer, Failure};
use provisioning_protocol::template::VmSpec;
use std::collections::BTreeMap;

/// Longest value: it ends up in a small configuration disk.
const VALUE_BYTES_MAX: usize = 4096;

/// Refuses variables the template does not have, and values that could break out of their line.
///
/// # Errors
/// 422 naming the variable as `field.KEY`.
pub fn check(field: &str, values: &BTreeMap<String, String>, vm: &VmSpec) -> Answer<()> {
    for (key, value) in values {
        if !vm.variables.contains_key(key) {
            let known: Vec<&str> = vm.variables.keys().map(String::as_str).collect();
            let key: String = key.chars().take(60).collect();
            let detail = format!(
                "{field}.{key}: the template has no such variable; it has: {}",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            );
            return Err(Failure::invalid(detail));
        }
        if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            let detail = format!("{field}.{key}: one line of at most {VALUE_BYTES_MAX} bytes");
            return Err(Failure::invalid(detail));
        }
    }
    Ok(())
}
