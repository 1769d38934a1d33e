// SPDX-License-Identifier: Apache-2.0
//! Every development command of Forecourt: `cargo xtask --help`.

mod args;
mod bench;
mod build;
mod check;
mod demo;
mod deps;
mod documents;
mod fuzz;
mod image;
mod lab;
mod paths;
mod report;
mod sh;
mod sim;
mod template;
mod test;
mod tidy;
mod ui;
mod witness;

use args::{Cli, Command, Product};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let clock = ui::Stopwatch::start();
    let name = cli.command.name();
    let outcome = run(cli.command);
    match &outcome {
        Ok(()) => ui::line(&format!("{name}: done in {}", clock.human())),
        Err(error) => {
            eprintln!("{name}: failed after {}: {error:#}", clock.human());
        }
    }
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Deps => deps::ensure_all(),
        Command::Build { product: None } => build::release(),
        Command::Build { product: Some(Product::Witness) } => witness::build().map(drop),
        Command::Image { force, programs } => image::run(force, programs),
        Command::Template { out } => template::run(out.as_deref()),
        Command::Demo(options) => demo::run(&options),
        Command::Lab(options) => lab::run(&options),
        Command::Sim { rest } => sim::run(&rest),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Test { steps } => test::run(&steps),
    }
}
