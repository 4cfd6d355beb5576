//! The `dmakit` command: raw arguments, then a checked plan, then one run.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod chart;
mod compare;
mod diagnose;
mod engine;
mod exit;
mod input;
mod load;
mod load_args;
mod output;
mod page;
mod plan;
mod progress;
mod quantity;
mod record;
mod replay;
mod run;
mod scenario;
mod size;

use std::process::ExitCode;

fn main() -> ExitCode {
    exit::code(args::read().and_then(plan::check).and_then(run::run))
}
