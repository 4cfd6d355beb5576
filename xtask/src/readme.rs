//! The README checked against today's programs: its commands parse, its sample output is printed.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, output_of, succeed};
use crate::readme_text::{self, Sample, first_difference};
use crate::workspace::Workspace;

/// Runs every command of the README with `--help` and every sample as it stands.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let text = fs::read_to_string(workspace.root.join("README.md")).context("README.md")?;
    let found = readme_text::read(&text);
    if found.commands.is_empty() || found.samples.is_empty() {
        bail!("README.md shows no command in a `sh` block or no output in a `console` block");
    }
    succeed(cargo(&workspace.root).args(["build", "--quiet", "--release", "--locked"]))?;
    let mut wrong = 0;
    for command in &found.commands {
        if let Err(error) = output_of(&mut program(workspace, &with_help(&command.words))?) {
            println!("   README.md:{}: {error:#}", command.line);
            wrong += 1;
        }
    }
    for sample in &found.samples {
        if let Err(error) = check(workspace, sample) {
            println!("   README.md:{}: {error:#}", sample.command.line);
            wrong += 1;
        }
    }
    if wrong > 0 {
        bail!("{wrong} things in README.md are not so");
    }
    println!(
        "   {} commands, {} samples",
        found.commands.len(),
        found.samples.len()
    );
    Ok(())
}

fn check(workspace: &Workspace, sample: &Sample) -> Result<()> {
    let output = program(workspace, &sample.command.words)?
        .output()
        .context("cannot start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let printed: Vec<&str> = text.lines().collect();
    if let Some(line) = first_difference(&sample.output, &printed) {
        let promised = sample
            .output
            .get(line)
            .map_or("nothing more", String::as_str);
        println!("{text}");
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "output line {} should be `{promised}`; it printed the above\n{errors}",
            line + 1
        );
    }
    Ok(())
}

/// The process behind a README's words, without going through an installed `dmakit`.
fn program(workspace: &Workspace, words: &[String]) -> Result<Command> {
    let mut words = words.iter();
    let mut command = match words.next().map(String::as_str) {
        Some("cargo") => {
            let mut command = cargo(&workspace.root);
            // `cargo run` must not print its progress into a sample.
            if words.clone().next().is_some_and(|word| word == "run") {
                words.next();
                command.args(["run", "--quiet", "--locked"]);
            }
            command
        }
        Some("dmakit") => {
            let mut command = cargo(&workspace.root);
            command.args(["run", "--quiet", "--locked", "--release", "--"]);
            command
        }
        other => bail!("`{}` is not one of our programs", other.unwrap_or_default()),
    };
    command.args(words).env("NO_COLOR", "1");
    Ok(command)
}

/// The same command asking for help, which still refuses a wrong subcommand or option before it.
/// What follows a second `--` belongs to another program and is dropped.
fn with_help(words: &[String]) -> Vec<String> {
    let through_cargo = words.get(1).is_some_and(|word| word == "run");
    let separators = if through_cargo { 1 } else { 0 };
    let mut seen = 0;
    let mut asked: Vec<String> = Vec::new();
    for word in words {
        if word == "--" {
            if seen == separators {
                break;
            }
            seen += 1;
        }
        asked.push(word.clone());
    }
    asked.push("--help".to_owned());
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> String {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        with_help(&words).join(" ")
    }

    #[test]
    fn help_is_asked_of_our_program_and_not_of_one_that_it_starts() {
        assert_eq!(
            asked("cargo run --release -- size x"),
            "cargo run --release -- size x --help"
        );
        assert_eq!(asked("dmakit record -- sleep 1"), "dmakit record --help");
        assert_eq!(
            asked("cargo run -- record -- sleep 1"),
            "cargo run -- record --help"
        );
        assert_eq!(asked("cargo xtask test"), "cargo xtask test --help");
    }
}
