// SPDX-License-Identifier: Apache-2.0
//! How answers are printed: JSON for programs, plain tables for people.

use crate::error::{Failure, Kind, Outcome};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Prints a value as indented JSON.
pub fn json(value: &impl Serialize) -> Outcome<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::caused(Kind::Internal, "the answer cannot be printed", &e))?;
    println!("{text}");
    Ok(())
}

/// Prints rows below a heading; says so when there are none.
pub fn table(heading: &[&str], rows: Vec<Vec<String>>, none: &str) {
    if rows.is_empty() {
        println!("{none}");
        return;
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.iter().map(|head| head.to_uppercase()))
        .add_rows(rows);
    for line in table.to_string().lines() {
        println!("{}", line.trim());
    }
}

/// Bytes for a person.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// An age for a person.
pub fn age(seconds: Option<u64>) -> String {
    match seconds {
        None => "never".to_owned(),
        Some(s @ 0..120) => format!("{s} s ago"),
        Some(s @ 120..7200) => format!("{} min ago", s / 60),
        Some(s) => format!("{} h ago", s / 3600),
    }
}

/// The word a value has in JSON, such as `PAIR` or `healthy`.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}
