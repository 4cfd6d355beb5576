//! The pinned toolchain and its components.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cargo::cargo;
use crate::environment::{MissingFromMachine, first_line};
use crate::steps::Outcome;
use crate::workspace::Workspace;

#[derive(Deserialize)]
struct ToolchainFile {
    toolchain: Toolchain,
}

#[derive(Deserialize)]
struct Toolchain {
    channel: String,
    #[serde(default)]
    components: Vec<String>,
}

impl Toolchain {
    fn install_line(&self) -> String {
        let mut line = format!(
            "rustup toolchain install {} --profile minimal",
            self.channel
        );
        for component in &self.components {
            line.push_str(&format!(" --component {component}"));
        }
        line
    }

    /// Whether `rustc --version` prints the pinned channel. A name such as `stable` fits any.
    fn is(&self, version_line: &str) -> bool {
        let numbered = self.channel.starts_with(|c: char| c.is_ascii_digit());
        !numbered || version_line.split_whitespace().nth(1) == Some(self.channel.as_str())
    }
}

/// Refuses another compiler than the pinned one, and a toolchain without formatter or lints.
pub(crate) fn run(workspace: &Workspace) -> Result<Outcome> {
    let text = fs::read_to_string(workspace.root.join("rust-toolchain.toml"))
        .context("cannot read rust-toolchain.toml")?;
    let file: ToolchainFile = toml::from_str(&text).context("rust-toolchain.toml")?;
    let pinned = file.toolchain;

    let version = first_line(
        Command::new("rustc")
            .arg("--version")
            .current_dir(&workspace.root),
    )
    .unwrap_or_else(|| "no rustc".to_owned());
    if !pinned.is(&version) {
        let what = format!(
            "rust-toolchain.toml pins {}, this is {version}",
            pinned.channel
        );
        return Err(MissingFromMachine {
            what,
            type_this: pinned.install_line(),
        }
        .into());
    }
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        let asked = first_line(cargo(&workspace.root).args([subcommand, "--version"]));
        if asked.is_none() {
            let what = format!("the toolchain {} lacks {component}", pinned.channel);
            return Err(MissingFromMachine {
                what,
                type_this: pinned.install_line(),
            }
            .into());
        }
    }
    println!("   {version}");
    Ok(Outcome::Held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pinned_version_passes() {
        let pinned = Toolchain {
            channel: "1.95.0".into(),
            components: vec!["clippy".into()],
        };
        assert!(pinned.is("rustc 1.95.0 (59807616e 2026-04-14)"));
        assert!(!pinned.is("rustc 1.95.1 (59807616e 2026-04-14)"));
        assert!(!pinned.is("no rustc"));
        assert_eq!(
            pinned.install_line(),
            "rustup toolchain install 1.95.0 --profile minimal --component clippy"
        );
    }
}
