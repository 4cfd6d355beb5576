//! Typed arguments, checked and completed: what will be run, on which input,
//! shown how.

use std::io::IsTerminal;

use crate::args::{Args, Colour, Command, Format, SizeCommand, Typed};
use crate::input::Source;
use crate::output::{Look, Show};
use crate::{bench, compare, record, replay, scenario, size};

/// One thing to do, and how to show its answer.
pub struct Plan {
    pub action: Action,
    pub show: Show,
}

/// What to do.
pub enum Action {
    Diagnose {
        source: Source,
        format: Option<Format>,
    },
    Replay(Box<replay::Plan>),
    SizeSwiotlb(Box<size::swiotlb::Plan>),
    SizeIts(size::its::Plan),
    SizeCma(Box<size::cma::Plan>),
    SizePins(Box<size::pins::Plan>),
    SizeMr(size::mr::Plan),
    Compare(Box<compare::Plan>),
    ComparePools(Box<compare::pools::Plan>),
    Bench(Box<bench::Plan>),
    Record(Box<record::Plan>),
    Run(scenario::Plan),
    Completions(clap_complete::Shell),
    Man(Option<String>),
    Print(String),
}

/// Checks what was typed.
pub fn check(typed: Typed) -> anyhow::Result<Plan> {
    let args = match typed {
        Typed::Command(args) => *args,
        Typed::Text(text) => {
            return Ok(Plan {
                action: Action::Print(text),
                show: Show::Text(Look::plain()),
            });
        }
    };
    let show = show(&args);
    let action = match args.command {
        Command::Diagnose(typed) => {
            let source = Source::new(typed.file);
            if source.is_terminal() {
                anyhow::bail!(
                    "nothing to diagnose: expected a file, `-`, or text on standard input \
                     (`dmesg | dmakit diagnose`)"
                );
            }
            Action::Diagnose {
                source,
                format: typed.format,
            }
        }
        Command::Replay(typed) => Action::Replay(Box::new(replay::Plan::new(typed)?)),
        Command::Size(SizeCommand::Swiotlb(typed)) => {
            Action::SizeSwiotlb(Box::new(size::swiotlb::Plan::new(typed)?))
        }
        Command::Its(typed) | Command::Size(SizeCommand::Its(typed)) => {
            Action::SizeIts(size::its::Plan::new(&typed)?)
        }
        Command::Size(SizeCommand::Cma(typed)) => {
            Action::SizeCma(Box::new(size::cma::Plan::new(typed)?))
        }
        Command::Size(SizeCommand::Pins(typed)) | Command::Pins(typed) => {
            Action::SizePins(Box::new(size::pins::Plan::new(typed)?))
        }
        Command::Mr(typed) | Command::Size(SizeCommand::Mr(typed)) => {
            Action::SizeMr(size::mr::Plan::new(typed)?)
        }
        Command::Compare(typed) => match typed.pools {
            Some(bytes) => {
                let source = Source::new(Some(typed.trace));
                let plan = compare::pools::Plan::new(source, bytes, typed.load)?;
                Action::ComparePools(Box::new(plan))
            }
            None => Action::Compare(Box::new(compare::Plan::new(typed))),
        },
        Command::Bench(typed) => Action::Bench(Box::new(bench::Plan::new(typed)?)),
        Command::Record(typed) => Action::Record(Box::new(record::Plan::new(typed)?)),
        Command::Run(typed) => Action::Run(scenario::Plan::new(typed)?),
        Command::Completions { shell } => Action::Completions(shell),
        Command::Man { command } => Action::Man(command),
    };
    Ok(Plan { action, show })
}

fn show(args: &Args) -> Show {
    if args.json {
        return Show::Json;
    }
    let terminal = std::io::stdout().is_terminal();
    let colour = match args.color {
        Colour::Always => true,
        Colour::Never => false,
        // An empty NO_COLOR counts as unset (no-color.org).
        Colour::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
    };
    Show::Text(Look::new(colour, terminal))
}
