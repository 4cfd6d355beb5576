//! Carries out a plan and writes its answer, whole or not at all.

use std::io::Write;

use anyhow::Context;

use crate::exit::Outcome;
use crate::plan::{Action, Plan};
use crate::{args, diagnose};

/// Runs the plan.
pub fn run(plan: Plan) -> anyhow::Result<Outcome> {
    let shown = plan.show;
    let (answer, outcome) = match plan.action {
        Action::Diagnose { source, format } => diagnose::command(&source, format, plan.show)?,
        Action::Replay(plan) => plan.run(shown)?,
        Action::SizeSwiotlb(plan) => plan.run(shown)?,
        Action::SizeIts(plan) => plan.run(shown)?,
        Action::SizeCma(plan) => plan.run(shown)?,
        Action::SizePins(plan) => plan.run(shown)?,
        Action::SizeMr(plan) => plan.run(shown)?,
        Action::Compare(plan) => plan.run(shown)?,
        Action::ComparePools(plan) => plan.run(shown)?,
        Action::Bench(plan) => plan.run(shown)?,
        Action::Record(plan) => plan.run(shown)?,
        Action::Run(plan) => plan.run(shown)?,
        Action::Completions(shell) => (completions(shell), Outcome::Answered),
        Action::Man(name) => (manual(name.as_deref())?, Outcome::Answered),
        Action::Print(text) => (text.into_bytes(), Outcome::Answered),
    };
    // Written only now, so that a failed run leaves standard output empty.
    let mut out = std::io::stdout().lock();
    out.write_all(&answer)?;
    out.flush()?;
    Ok(outcome)
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut args::description(), "dmakit", &mut text);
    text
}

fn manual(name: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut description = args::description();
    description.build();
    let page = match name {
        None => description,
        Some(name) => description
            .find_subcommand(name)
            .cloned()
            .with_context(|| format!("no manual page for '{name}', expected a command's name"))?,
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(text)
}
