//! The `dmakit` command: raw arguments, then a checked plan, then one run.
#![forbid(unsafe_code)]

mod args;
mod diagnose;
mod exit;
mod input;
mod output;
mod plan;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::code(args::read().and_then(plan::check).and_then(run::run))
}
