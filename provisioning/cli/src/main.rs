// SPDX-License-Identifier: Apache-2.0
//! `forecourt`: the operator's command line.
//!
//! Noun, then verb. Reads take `--json`. Errors say what happened and what to do next, and end
//! with a stable exit code (see [`error::Kind`]).

mod api;
mod args;
mod commands;
mod error;
mod output;
mod progress;

use args::Args;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        unreachable!("main runs once");
    }
    let json = args.json_errors;
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.print(json);
            error.kind.exit_code()
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> error::Outcome<()> {
    commands::run(args).await
}
