//! Checks and chores of this repository, as `cargo xtask COMMAND`.
//!
//! `cargo xtask test` is what continuous integration runs and what a contributor types. Exit codes:
//! 0 everything held, 1 something did not, 2 this machine lacks something (the line to type is
//! printed).
#![forbid(unsafe_code)]

mod bare;
mod boot;
mod cargo;
mod deny;
mod environment;
mod licence;
mod packages;
mod readme;
mod readme_text;
mod soak;
mod steps;
mod test;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use environment::MissingFromMachine;
use workspace::Workspace;

/// Checks and chores of this repository
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every check, in the order of what fails soonest; what continuous integration runs
    Test,
    /// House rules: layers, names, sizes, leftovers, crate roots
    Tidy,
    /// Build the no_std crates for a target without an operating system
    BuildBare,
    /// Build the bare-metal image and boot it on QEMU
    Boot(boot::Arguments),
    /// Licences, bans and sources of all dependencies, after deny.toml
    Deny,
    /// Check that the README's commands parse and its sample output is today's
    Readme,
    /// The long forms of the tests, Miri and fuzzing where they can be had
    Soak(soak::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let missing = error.downcast_ref::<MissingFromMachine>().is_some();
            ExitCode::from(if missing { 2 } else { 1 })
        }
    }
}

fn run(command: &Command) -> Result<()> {
    let workspace = Workspace::read()?;
    match command {
        Command::Test => test::run(&workspace),
        Command::Tidy => tidy::run(&workspace),
        Command::BuildBare => bare::run(&workspace).map(drop),
        Command::Boot(arguments) => boot::run(&workspace, arguments).map(drop),
        Command::Deny => deny::run(&workspace),
        Command::Readme => readme::run(&workspace),
        Command::Soak(arguments) => soak::run(&workspace, arguments),
    }
}
